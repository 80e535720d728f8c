# make report · make test · make test-slurm · make book · make lab: each sets up what it needs in .venv
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
FOLDERS := $(sort $(dir $(wildcard nbs/*.ipynb nbs/*/*.ipynb)))

.PHONY: report test test-slurm book lab readme

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

book: $(READY)  ## every notebook as a page, in the folders of its chapter, _book/index.html first
	rm -rf _book
	for folder in $(FOLDERS); do $(BIN)/jupyter nbconvert --log-level=WARN --to html --embed-images --no-prompt \
		--output-dir _book/$${folder#nbs/} --TagRemovePreprocessor.enabled=True \
		--TagRemovePreprocessor.remove_input_tags=remove_input \
		--RegexRemovePreprocessor.patterns='^#\| (hide|default_exp)' $$folder*.ipynb || exit 1; done
	find _book -name '*.html' -exec sed -i -E 's#href="(nbs/)?([0-9a-z_./]+)\.ipynb#href="\2.html#g' {} +
	sed -i -E -e 's#href="(reports/|CHANGELOG)#href="../\1#g' -e 's#src="nbs/figures/#src="../nbs/figures/#g' _book/index.html
	@echo 'open _book/index.html'

$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@echo 'setting up .venv, a few minutes on the first run'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
