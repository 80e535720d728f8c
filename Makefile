# make report · test · test-slurm · test-browser · book · lab: each sets up what it needs in .venv
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BOOK := .venv/.book

.PHONY: report test test-slurm book test-browser lab readme

report: $(READY)  ## train on the handwritten digits and render runs/digits/report.html
	$(BIN)/coulomb-gan reproduce digits --out runs

test: $(READY)  ## every check: the notebooks' own, then tests/
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slurm: $(READY)  ## jobs on a SLURM of one node, whose daemons are started and stopped here
	@PATH=$$PATH:/usr/sbin:/sbin; for name in munged slurmctld slurmd sbatch; do command -v $$name > /dev/null || \
		{ echo "$$name is missing: apt-get install slurm-wlm munge"; exit 1; }; done
	COULOMB_GAN_SLURM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 0 tests/reporting/test_slurm.py

lab: $(READY)  ## JupyterLab in this environment
	$(BIN)/jupyter lab nbs

readme: $(READY)  ## README.md from nbs/index.ipynb
	$(BIN)/jupyter nbconvert --log-level=WARN --to markdown nbs/index.ipynb --output-dir . --output README \
		--NbConvertApp.output_files_dir=nbs/figures --TagRemovePreprocessor.enabled=True \
		--TagRemovePreprocessor.remove_input_tags=remove_input
	sed -i -e 's/ *$$//' README.md
	sed -i -e '/./,/^$$/!d' README.md  # one empty line where there were several
	sed -i -e 's/^!\[png\]/![samples follow the field to eight groups of data; faces drawn by the package]/' README.md

book: $(BOOK)  ## every notebook as a page with the outputs stored in it, reports, reference and playground: _book/index.html
	$(BIN)/sphinx-build -E -a -q -W --keep-going -j auto -d .venv/doctrees nbs _book
	@echo 'open _book/index.html'

test-browser: $(BOOK)  ## the book, the reports and the playground in Chromium, without a network
	@{ command -v chromium || command -v google-chrome; } > /dev/null && command -v chromedriver > /dev/null || \
		{ echo 'no browser: apt-get install chromium chromium-driver'; exit 1; }
	$(MAKE) book
	BOOK=_book $(BIN)/python -m pytest -q -n auto tests/browser

$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@echo 'setting up .venv, a few minutes on the first run'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(BOOK): $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,book]'
	@touch $@
