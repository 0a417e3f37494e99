# make lab     opens JupyterLab on notebook 01
# make test    checks everything: style, units, every notebook against its committed outputs, the browser
# make tour    runs every notebook without a browser and writes none of them
# make app     serves the playground as a page of its own, on this machine only; open the link with the token
#              (each open page is a kernel of about 400 MB, which ends 10 minutes after its page was closed)
# make slides  writes a deck for each notebook to build/slides, of the Chinese ones to build/slides/zh
# make site    writes the pages and the notebooks, with contents and search, to build/site, in both languages
#
# 中文版: with MINIMAX_NB_LANGUAGE=zh, lab, app and tour take the Chinese course:
#     make lab MINIMAX_NB_LANGUAGE=zh
#
# make check-room WHEELS=wheels    on a laptop on the day before a workshop: see docs/workshop.md
#
# Each installs what it needs into .venv; the versions are in pyproject.toml.
# On Linux without an NVIDIA GPU, PyTorch's CPU build saves gigabytes, the first time:
#     make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu

PY ?= python3
TORCH_INDEX ?=
LAB_ARGS ?=
APP_ARGS ?=
WHEELS ?=
MINIMAX_NB_LANGUAGE ?=
export MINIMAX_NB_LANGUAGE
CHINESE := $(filter zh%,$(MINIMAX_NB_LANGUAGE))
FOLDER := notebooks/$(if $(CHINESE),zh/)
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
RUN := .venv/bin/python -m

# With WHEELS=folder nothing is fetched: pip takes what `pip download` put there.
ifneq ($(WHEELS),)
export PIP_NO_INDEX = 1
export PIP_FIND_LINKS = $(abspath $(WHEELS))
endif

.PHONY: lab test tour app slides site check-room

lab: .venv/lab.stamp
	$(RUN) jupyterlab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/$(FOLDER)01_installation.ipynb $(LAB_ARGS)

# Notebook 08 trains for two minutes. In Chinese it runs the same code, as tests/test_chinese.py sees, and need not train again.
TRAINED_ONCE := --ignore=notebooks/zh/08_finetuning.ipynb

# Two files at a time, each on one thread (tests/conftest.py); a notebook is a file, in both its languages
test: .venv/test.stamp
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-cell-timeout=600 --durations=10 $(TRAINED_ONCE)

tour: .venv/lab.stamp
	$(RUN) jupyter execute --timeout=600 $(FOLDER)*.ipynb

app: .venv/lab.stamp
	$(RUN) voila --Voila.config_file_paths=docs/app $(if $(CHINESE),--VoilaExporter.language_code=zh) $(APP_ARGS) docs/app/playground$(if $(CHINESE),.zh-CN).ipynb

slides: .venv/site.stamp
	.venv/bin/python docs/publish/slides.py build/slides

site: .venv/site.stamp
	$(RUN) sphinx -q -E -W --keep-going -c docs/publish -d build/doctrees . build/site

check-room: .venv/lab.stamp
	$(RUN) minimax_nb.cli room $(if $(WHEELS),--wheels $(WHEELS))

.venv/lab.stamp: pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer, please: make PY=python3.12")'
	$(PY) -m venv .venv
	$(if $(TORCH_INDEX),$(RUN) pip install --index-url $(TORCH_INDEX) "$$(grep -o 'torch==[0-9.]*' pyproject.toml)")
	$(RUN) pip install -e ".[lab,train,serve]"
	touch $@

.venv/test.stamp: .venv/lab.stamp
	$(RUN) pip install -e ".[lab,train,serve,test,site]"
	touch $@ .venv/site.stamp

.venv/site.stamp: .venv/lab.stamp
	$(RUN) pip install -e ".[lab,train,serve,site]"
	touch $@
