# make demo | make test | make setup | make setup OPS=1 | make lint | make clean
.PHONY: setup demo test lint clean
PYTHON ?= python3
export PYTHON TORCH_INDEX OPS
# compiled once, not by each of the hundreds of processes that tests start
unexport PYTHONDONTWRITEBYTECODE

RUN := .venv/bin/python
STUDENT := configs/lidarseg/minkunet_half_kitti.py
METHODS := configs/pvd/minkunet_kitti.py configs/cd/minkunet_kitti.py
SEMI := --variant literal model.losses.pvd.reading=literal --setting semi --seeds 1 --work-dir work_dirs/demo
ALONE := work_dirs/demo/semi/student_0/model.pth
TAUGHT := work_dirs/demo/semi/cd_0/model.pth
STREET := $(or $(PERCEPTION_DATA),data)/mini/semantickitti/sequences/08

setup:
	@bash tools/setup.sh

# A teacher, students alone and students taught by it, on simulated data; cut off, it continues where it was.
demo: setup
	@echo "1 of 4, about 10 minutes on two cores: train a teacher with all labels, then with 0.1 % of them a student alone"
	@echo "and three that the teacher taught, by PVD, by its formulas as printed (literal), and by CD"
	$(RUN) tools/benchmark.py distillation $(STUDENT) $(METHODS) $(SEMI)
	@echo "2 of 4, about a minute: draw the scans on which the one taught by CD betters the one alone the most, and a film"
	$(RUN) tools/test.py $(STUDENT) $(ALONE) --mini --save work_dirs/demo/alone
	$(RUN) tools/test.py $(STUDENT) $(TAUGHT) --mini --draw work_dirs/demo/pictures \
		--cfg-options draw="[dict(type='DrawGains',against='work_dirs/demo/alone',most=3)]"
	$(RUN) tools/visualize.py $(STUDENT) $(TAUGHT) $(STREET)/velodyne --labels $(STREET)/labels --mini --view follow \
		--fps 2 --out work_dirs/demo/drive.mp4
	@echo "3 of 4, less than a minute: write a submission and check it as the server does"
	$(RUN) tools/test.py $(STUDENT) $(TAUGHT) --mini --submit work_dirs/demo/submission
	@echo "4 of 4: what came out"
	@$(RUN) tools/benchmark.py distillation $(STUDENT) $(METHODS) $(SEMI) --report-only
	@echo "pictures: work_dirs/demo/pictures    film: work_dirs/demo/drive.mp4"
	@echo "submission: work_dirs/demo/submission    table: work_dirs/demo/report.md"
	@echo "Proven elsewhere: the losses equal independent loops (tests/distill), the nets the authors' code with its weights"
	@echo "(tests/lidarseg), the score the official evaluation to the last digit (test_metric.py of the data set)."

lint: setup
	.venv/bin/ruff check .

# Two processes with one thread each are faster than one with two: most tests are small. Files go to them in order, long
# ones (tests/apis) first, so that both end together.
test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

clean:
	rm -rf work_dirs data/mini
