# `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
# auto: CPU build where no NVIDIA GPU is seen; cpu, gpu: as said; skip: keep the torch that is there
TORCH ?= auto
# PyTorch's own download page for CPU builds; elsewhere plain torch brings gigabytes of CUDA libraries
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# GB of free disk that a new environment needs (CPU build)
NEED_GB ?= 4
# more for papermill: make reproduce-table-4 PARAMS="-p cases 2"; PROFILE=paper: the paper's values
PARAMS ?=
PROFILE ?=
# WEIGHTS=official: the published networks that `make weights-official` fetched, at the paper's size
WEIGHTS ?=
LAB ?=
# processes that train together: make train-click PROCESSES=2; on each of two machines
# make train-click PROCESSES=8 TORCHRUN="--nnodes 2 --rdzv-backend c10d --rdzv-endpoint first:29500"
PROCESSES ?=
TORCHRUN ?= --standalone
# processes among which `make test` divides test files and notebooks, a core for each
TEST_PROCESSES ?= 2

# PyTorch's threads give a core back sooner than GNU OpenMP would let them (limnet/__init__.py); here
# too, because notebooks import torch first
GOMP_SPINCOUNT ?= 3000
export GOMP_SPINCOUNT

LIMNET_REPORTS ?= $(CURDIR)/reports
# folders relative to this one: notebooks run elsewhere
absolute = $(if $(filter /%,$(firstword $(1))),,$(CURDIR)/)$(1)
override LIMNET_REPORTS := $(call absolute,$(LIMNET_REPORTS))
export LIMNET_REPORTS
ifneq ($(LIMNET_DATA),)
override LIMNET_DATA := $(call absolute,$(LIMNET_DATA))
export LIMNET_DATA
endif
# the kernel "python3" is this environment's, not one registered in the user's home
export JUPYTER_PREFER_ENV_PATH = 1
export PYTHONNOUSERSITE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

python := $(VENV)/bin/python
ok := $(VENV)/.ok
# --no-compile: Python compiles what is imported, not the gigabyte that is not
pip := PYTHONWARNINGS=ignore "$(python)" -m pip install --quiet --no-compile --constraint constraints.txt

# the tests of a file, and the cells of a notebook, are in one process and in their order
divided = OMP_NUM_THREADS=1 "$(python)" -m pytest -n $(TEST_PROCESSES) --dist loadfile

# each process runs the words after the report's path: rank 0 with this path as the last word, the
# others with another file and LIMNET_REPORTS in a folder that is removed
each_rank = "$(python)" -m torch.distributed.run --nproc-per-node $(PROCESSES) $(TORCHRUN) \
--no-python sh -c 'test "$$RANK" != 0 || exec "$$@" "$$0"; LIMNET_REPORTS=$$(mktemp -d); \
trap "rm -rf \"$$LIMNET_REPORTS\"" EXIT; "$$@" "$$LIMNET_REPORTS/rank-$$RANK.ipynb"'

# JupyterLab loads another icon for the browser's tab whenever a kernel is busy or no longer so:
# 45 KB of the browser's memory for each slice that is turned to
FAVICON := @jupyterlab/application-extension:faviconbusy

# notebooks one after the other; one that stops does not keep the others from running
run_each = @failed=; for each in $(1); do set -- $$(echo "$$each" | tr / ' '); \
$(MAKE) --no-print-directory "run-$$1" $(if $(PARAMS),,PARAMS="$${2:+-p $$(echo $$2 | sed 's/_/ /g; s/+/ -p /g')}") || \
failed="$$failed $$1"; done; $(2) \
test -z "$$failed" || { echo "make $@: these stopped:$$failed" >&2; exit 1; }

# a kernel on this machine would warn at each start that its messages are not encrypted
QUIET_KERNEL := get_config().IPKernelApp.log_level = 'ERROR'

.DEFAULT_GOAL := help
.PHONY: help setup test lint lab quickstart data weights-official report
.PHONY: reproduce-all reproduce-figures reproduce-figure-4 reproduce-runtime reproduce-real
.PHONY: reproduce-table-1 reproduce-table-2 reproduce-table-3 reproduce-table-4
.PHONY: reproduce-table-5 reproduce-table-6 claims protocols defects defects-ablation
.PHONY: train train-click train-propagation train-quality validate annotate
.PHONY: benchmark large-run measure-large-run measure-speed measure-widget clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' Makefile

setup: $(ok) ## build the environment in .venv (done once, and again when the pins change)

test: lint ## ruff, unit tests, then every notebook at its default parameters
	$(divided) tests
	@reports=$$(mktemp -d); trap 'rm -rf "$$reports"' EXIT; echo "every notebook by nbval:"; \
	LIMNET_REPORTS="$$reports" $(divided) --nbval-lax --nbval-current-env \
	--nbval-cell-timeout=600 -o timeout=0 notebooks

lint: $(ok) ## ruff: rules and format
	"$(python)" -m ruff check limnet tests notebooks
	"$(python)" -m ruff format --check limnet tests notebooks

lab: $(ok) ## open JupyterLab on notebooks/
	"$(python)" -m jupyterlab --ServerApp.root_dir=notebooks $(LAB)

quickstart: run-00_quickstart ## a volume, three clicks, DSC after each round
data: run-10_data ## which data sets are there, which are missing and where to get them
data-%: $(ok) ## fetch a data set that is open to all into LIMNET_DATA, such as data-msd_colon
	"$(python)" -m limnet.data.download data $*

weights-official: $(ok) ## the published RITM and XMem weights into weights/, for WEIGHTS=official
	"$(python)" -m limnet.data.download weights

reproduce-table-1: run-51_table_1_kits_msd ## Table I: KiTS19 and MSD, with baselines
reproduce-table-2: run-52_table_2_fusion_ablation ## Table II and Figure 3: with and without fusion
reproduce-table-3: run-53_table_3_datasets ## Table III, counted from the data on disk
reproduce-table-4: run-54_table_4_btcv ## Table IV beside the paper's; the report is an HTML page
reproduce-table-5: run-55_table_5_pancreas ## Table V: pancreas tumours
reproduce-table-6: run-56_table_6_endovis ## Table VI and Figure 6: surgical scenes
reproduce-runtime: run-57_runtime_and_memory ## frames a second and memory, as section III-C
reproduce-figure-4: run-58_figure_4_prompt_masks ## Figure 4: prompt masks after one and two clicks
reproduce-real: run-59_real_collections ## the labelled volumes in LIMNET_DATA that are ours
claims: run-60_paper_claims ## each claim of the paper, the rule that checks it, its status
protocols: run-61_protocol_sensitivity ## what the paper leaves open, and how much it moves

# words after the slash: more for papermill; Figure 3 has ten rounds, the real cases all labels
table_2 := 52_table_2_fusion_ablation/rounds_10
figures := $(table_2) 58_figure_4_prompt_masks 54_table_4_btcv 56_table_6_endovis
all := 10_data 51_table_1_kits_msd $(table_2) 53_table_3_datasets 54_table_4_btcv \
  55_table_5_pancreas 56_table_6_endovis 57_runtime_and_memory 58_figure_4_prompt_masks \
  59_real_collections/labels_0+longest_0 61_protocol_sensitivity 60_paper_claims

reproduce-figures: $(ok) ## Figures 3 to 6
	$(call run_each,$(figures))

reproduce-all: $(ok) ## every table and figure, then the report of all
	$(call run_each,$(all),$(MAKE) --no-print-directory report || failed="$$failed report";)

report: $(ok) ## one static site of all runs: reports/site/index.html
	"$(python)" -m limnet.reports.site

defects: run-20_defective_masks ## the six corruptions of section III-B
defects-ablation: run-21_defective_masks_ablation ## what training with them is good for

# rounds are played without fusion: the quality network that ships is there for the folder to be whole
train = $(MAKE) --no-print-directory PROFILE=$(or $(PROFILE),short)
trained = for each in $(1); do cp "$$LIMNET_REPORTS/$$each.safetensors" weights/trained || exit 1; done

train: $(ok) ## the three networks from nothing into weights/trained, then how good they are
	@mkdir -p weights/trained; cp limnet/weights/quality_lite.safetensors weights/trained/quality.safetensors
	@$(train) -j2 train-click train-propagation
	@$(call trained,30_train_click_net/checkpoints/click_stage_2 31_train_propagation_net/checkpoints/propagation)
	@$(train) train-quality WEIGHTS=trained
	@$(call trained,32_train_quality_net/checkpoints/quality)
	@$(MAKE) --no-print-directory PROFILE=short validate WEIGHTS=trained

train-click: run-30_train_click_net ## train the click network
train-propagation: run-31_train_propagation_net ## train the propagation network
train-quality: run-32_train_quality_net ## train the quality network
validate: run-33_validate_weights ## the weights on collections that no training reads
annotate: run-40_click_and_segment ## a simulated user in the annotator; yours: make lab

benchmark: $(ok) ## sizes, lengths, optimisations: hours; BENCHMARK="--help" tells what to ask for
	PYTHONPATH=tests "$(python)" -m measure $(BENCHMARK)
	$(MAKE) --no-print-directory reproduce-runtime

large-run: run-62_large_run ## every case of a data set over all cores; goes on after a stop
measure-large-run: $(ok) ## twenty kills of a large run, and one worker against two
	PYTHONPATH=tests "$(python)" -m measure.large_run

measure-speed: $(ok) ## speed, memory, 16 bits on real cases; AGAINST=FOLDER: another checkout too
	PYTHONPATH=tests "$(python)" -m measure.speed $(if $(AGAINST),--against "$(AGAINST)")

measure-widget: $(ok) ## the annotator's speed and memory in a browser, and 50 kills
	PYTHONPATH=tests "$(python)" -m measure.widget

run-%: $(ok) ## run notebooks/%.ipynb and leave its report in reports/%/
	@stop() { echo "make $@: $$1" >&2; exit 1; }; \
	test -f notebooks/$*.ipynb || stop "there is no notebooks/$*.ipynb"; \
	$(if $(PROFILE),test -f notebooks/$(PROFILE)/$*.yaml || \
	stop "PROFILE=$(PROFILE) needs notebooks/$(PROFILE)/$*.yaml which is not there";) \
	$(if $(WEIGHTS),test -d "weights/$(WEIGHTS)" || \
	stop "WEIGHTS=$(WEIGHTS) needs the folder weights/$(WEIGHTS); make weights-official makes it";) \
	report="$$LIMNET_REPORTS/$*"; mkdir -p "$$report"; \
	$(if $(PROCESSES),$(each_rank) "$$report/$*.ipynb") \
	"$(python)" -m papermill notebooks/$*.ipynb $(if $(PROCESSES),,"$$report/$*.ipynb") --kernel python3 \
	--cwd notebooks $(if $(WEIGHTS),-p networks "$(CURDIR)/weights/$(WEIGHTS)") \
	$(if $(PROFILE),-f notebooks/$(PROFILE)/$*.yaml) $(PARAMS) || \
	stop "the notebook stopped; the cell and its error stand in $$report/$*.ipynb"; \
	$(if $(PROCESSES),test -f "$$report/$*.ipynb" || exit 0; : rank 0 is on another machine;) \
	"$(python)" -m nbconvert --log-level=ERROR --to html --no-input "$$report/$*.ipynb" || \
	stop "the report could not be written as HTML; the notebook is $$report/$*.ipynb"; \
	echo "Report: $$report/$*.html"

clean: ## remove the environment and caches; reports and checkpoints stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find limnet tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# A stamp: written last, so that an interrupted set-up goes on where it stopped.
$(ok): pyproject.toml constraints.txt
	@stop() { echo "make setup: $$1" >&2; exit 1; }; \
	"$(PYTHON)" -c '' 2>/dev/null || \
	stop "no Python found as $(PYTHON); install Python 3.11 or newer, or say PYTHON=..."; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	stop "Python 3.11 or newer is needed, $(PYTHON) is $$("$(PYTHON)" --version 2>&1); say PYTHON=..."; \
	if ! "$(python)" -m pip --version >/dev/null 2>&1; then \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
	stop "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv"; \
	mkdir -p "$(VENV)"; free=$$(df -Pk "$(VENV)" | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	test "$$free" -ge "$(NEED_GB)" || \
	stop "about $(NEED_GB) GB of disk space are needed for $(VENV), $$free GB are free"; \
	"$(PYTHON)" -m venv --clear "$(VENV)" || stop "$(PYTHON) could not make $(VENV)"; fi; \
	$(pip) "$$(grep '^pip==' constraints.txt)" || stop "pip could not be updated; its reason stands above"; \
	torch=$$(grep '^torch==' constraints.txt); index=; \
	if test "$(TORCH)" = skip; then torch=; \
	elif test "$(TORCH)" = gpu; then :; \
	elif test "$(TORCH)" = auto && nvidia-smi >/dev/null 2>&1; then :; \
	elif $(pip) --dry-run --ignore-installed --no-deps --report - "$$torch" 2>/dev/null | \
	grep -q '"version": "[^"]*+cpu"'; then :; \
	else index="--index-url $(TORCH_INDEX)"; fi; \
	if test -n "$$torch"; then echo "make setup: installing $$torch $$index"; \
	$(pip) --no-deps $$index "$$torch" || stop "$$torch was not installed; pip's reason stands above"; fi; \
	echo "make setup: installing limnet and what it needs (minutes, the first time)"; \
	$(pip) --editable '.[dev]' || stop "limnet was not installed; pip's reason stands above"; \
	mkdir -p "$(VENV)/etc/ipython" && echo "$(QUIET_KERNEL)" > "$(VENV)/etc/ipython/ipython_kernel_config.py"; \
	"$(python)" -m jupyter labextension disable --level=sys_prefix $(FAVICON) >/dev/null 2>&1 || :; \
	touch "$(ok)"
