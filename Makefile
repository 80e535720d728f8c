# make report · make test · make book · make test-browser · make lab: each sets up what it needs in .venv
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BOOK := .venv/.book

.PHONY: report test book test-browser lab readme

report: $(READY)  ## train on the handwritten digits and render runs/digits/report.html
	$(BIN)/coulomb-gan reproduce digits --out runs

test: $(READY)  ## every check: the notebooks' own, then tests/
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing
	$(BIN)/python -m pytest -q -n auto --dist worksteal

lab: $(READY)  ## JupyterLab in this environment
	$(BIN)/jupyter lab nbs

readme: $(READY)  ## README.md from nbs/index.ipynb
	$(BIN)/jupyter nbconvert --log-level=WARN --to markdown nbs/index.ipynb --output-dir . --output README \
		--NbConvertApp.output_files_dir=nbs/figures --TagRemovePreprocessor.enabled=True \
		--TagRemovePreprocessor.remove_input_tags=remove_input
	sed -i -e 's/ *$$//' README.md
	sed -i -e '/./,/^$$/!d' README.md  # one empty line where there were several

book: $(BOOK)  ## every notebook as a page with the outputs stored in it, reports, reference and playground: _book/index.html
	$(BIN)/sphinx-build -E -a -q -W --keep-going -j auto -b html nbs _book
	@echo 'open _book/index.html'

test-browser: $(BOOK)  ## the book, the reports and the playground in Chromium, without a network
	@{ command -v chromium || command -v google-chrome; } > /dev/null && command -v chromedriver > /dev/null || \
		{ echo 'no browser: apt-get install chromium chromium-driver'; exit 1; }
	$(MAKE) book
	BOOK=_book $(BIN)/python -m pytest -q tests/browser

$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@echo 'setting up .venv, a few minutes on the first run'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(BOOK): $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,book]'
	@touch $@
