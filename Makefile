# make demo | make test | make setup | make setup OPS=1 | make lint | make clean
.PHONY: setup demo test lint clean
PYTHON ?= python3
export PYTHON TORCH_INDEX OPS

RUN := .venv/bin/python
TEACHER := configs/lidarseg/cylinder3d_kitti.py
STUDENT := configs/lidarseg/cylinder3d_half_kitti.py
DISTILL := configs/pvd/cylinder3d_kitti.py
WEIGHTS := work_dirs/pvd/cylinder3d_kitti_mini/model.pth

setup:
	@bash tools/setup.sh

# The main job on simulated data; cut off, it continues where it was.
demo: setup
	@echo "1 of 5, about 5 minutes: train the teacher"
	$(RUN) tools/train.py $(TEACHER) --mini --resume
	@echo "2 of 5, about 7 minutes: distil the student"
	$(RUN) tools/train.py $(DISTILL) --mini --resume
	@echo "3 of 5, about 1 minute: test it, draw every scan"
	$(RUN) tools/test.py $(STUDENT) $(WEIGHTS) --mini --draw work_dirs/demo/pictures
	@echo "4 of 5, about 1 minute: write a submission"
	$(RUN) tools/test.py $(STUDENT) $(WEIGHTS) --mini --submit work_dirs/demo/submission
	@echo "5 of 5, about 1 minute: what both nets reach and cost"
	$(RUN) tools/benchmark.py cost $(TEACHER) $(DISTILL) --mini --trained
	@echo "pictures: work_dirs/demo/pictures    submission: work_dirs/demo/submission"

lint: setup
	.venv/bin/ruff check .

# Two processes with one thread each are faster than one with two: most tests are small.
test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

clean:
	rm -rf work_dirs data/mini
