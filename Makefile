# make lab     opens JupyterLab on notebook 01
# make test    checks everything: style, units, every notebook against its committed outputs, the browser
# make tour    runs every notebook without a browser and writes none of them
#
# Each installs what it needs into .venv; the versions are in pyproject.toml.
# On Linux without an NVIDIA GPU, PyTorch's CPU build saves gigabytes, the first time:
#     make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu

PY ?= python3
TORCH_INDEX ?=
LAB_ARGS ?=
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
RUN := .venv/bin/python -m

.PHONY: lab test tour

lab: .venv/lab.stamp
	$(RUN) jupyterlab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/notebooks/01_installation.ipynb $(LAB_ARGS)

test: .venv/test.stamp
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pytest --nbval --nbval-current-env --nbval-cell-timeout=120

tour: .venv/lab.stamp
	$(RUN) jupyter execute --timeout=120 notebooks/*.ipynb

.venv/lab.stamp: pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer, please: make PY=python3.12")'
	$(PY) -m venv .venv
	$(if $(TORCH_INDEX),$(RUN) pip install --index-url $(TORCH_INDEX) "$$(grep -o 'torch==[0-9.]*' pyproject.toml)")
	$(RUN) pip install -e ".[lab]"
	touch $@

.venv/test.stamp: .venv/lab.stamp
	$(RUN) pip install -e ".[lab,test]"
	touch $@
