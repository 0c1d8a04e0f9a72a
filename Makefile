# `make demo` and `make test` set up everything that they need; `make help` lists the rest.
CONFIG ?= configs/quickstart.yaml

# The program that the tests in Python run: where cargo builds it.
export VMBEAUTY ?= $(abspath $(or $(CARGO_TARGET_DIR),target))/release/vmbeauty

.PHONY: help python setup gloo cuda distributed build demo dist test test-dist test-distributed test-explain test-faces test-interval test-ood test-paper test-report test-web test-attacks test-gpu test-kernels test-python test-onnx kernel-table kernel-latency kernel-tools web-runtime lint lint-dockerfile clean

help:
	@echo "make demo    train VM-BeautyNet on synthetic faces and print PC, MAE and RMSE (CONFIG=FILE for another experiment)"
	@echo "make test    run the tests"
	@echo "make test-report    check a report in headless Chromium; skipped where there is none, unless VMB_REQUIRE_CHROMIUM=1"
	@echo "make test-web    check an exported web page in headless Chromium against predict; skipped as test-report is; needs npm"
	@echo "make test-explain   train a Vision Mamba on synthetic faces and measure whether its maps lie on what the score is made of; minutes"
	@echo "make test-faces     compare the face detector with facenet-pytorch on faces in scenes; fetches what make cuda fetches"
	@echo "make test-interval  measure whether prediction intervals cover what they promise, on synthetic faces and ten seeds; minutes"
	@echo "make test-ood       train the model of the quickstart and count which images of no face predict flags (VMB_OOD_RUN=RUN: of a finished run); minutes"
	@echo "make test-paper     run the sweeps of experiments/paper on synthetic faces under the published names, with micro backbones; minutes"
	@echo "make test-attacks   kill and stop runs, fill disks, feed hostile files, and count what goes wrong; up to ten minutes"
	@echo "make test-gpu       run on a GPU what computes there, and compare it with the reference files; fails where there is none"
	@echo "make test-kernels   run the CUDA kernels in a simulator and compare them with reference files; no GPU is needed"
	@echo "make test-python    build the operators for PyTorch, examples/python, and run their tests and tests/gpu on the CPU; fetches what make cuda fetches"
	@echo "make test-onnx      export models as ONNX, check the files and compare them in onnxruntime with the program; fetches onnx and onnxruntime"
	@echo "make kernel-table   print what the CUDA kernels count there, the table of csrc/README.md"
	@echo "make kernel-latency   print how long a model of the GPU estimates that they take"
	@echo "make build   build target/release/vmbeauty"
	@echo "make dist    pack the program with all that it needs except glibc: target/dist/vm-beautynet-VERSION-x86_64-linux.tar.gz"
	@echo "make test-dist   run it where there is nothing else, in a namespace of its own"
	@echo "make lint    check formatting, clippy and rustdoc with warnings denied, and the structure and words of the code"
	@echo "make lint-dockerfile   check the Dockerfile with hadolint, which it fetches"
	@echo "make web-runtime   fetch ONNX Runtime Web for vmbeauty export --format web; needs npm"
	@echo "make setup   only fetch libtorch for the CPU; then plain cargo build and cargo test work"
	@echo "make cuda    fetch libtorch with CUDA and nvcc instead, and build with it; the other targets keep it"
	@echo "make distributed   build with the feature that trains with several processes, on one host or many"
	@echo "make test-distributed   run its tests"
	@echo "make clean   remove build outputs (libtorch stays in its cache)"

python:
	@command -v python3 >/dev/null || { echo "set-up: python3 is missing: install Python 3 with pip (Debian/Ubuntu: apt install python3 python3-pip)" >&2; exit 1; }

setup: python
	@python3 scripts/setup.py

cuda: python
	@python3 scripts/setup.py --cuda
	cargo build --release

gloo: python
	@python3 scripts/setup.py --distributed

distributed: gloo
	cargo build --release --features distributed

test-distributed: gloo
	cargo test --release --features distributed --lib distributed
	cargo test --release --features distributed --test cli distributed

build: setup
	cargo build --release

dist: build
	@python3 scripts/setup.py --faces
	@python3 -B scripts/dist.py

test-dist: dist
	python3 -B tests/dist/check_tarball.py

demo: build
	cargo run --quiet --release -- train $(CONFIG)

test: setup
	python3 -B -m unittest discover -s tests -p "test_*.py"
	cargo test

# The tests that run on a GPU as well as on the CPU, by their names.
test-gpu: python
	@python3 scripts/setup.py --require-gpu
	@python3 scripts/setup.py --distributed
	VMB_REQUIRE_GPU=1 cargo test --release --features distributed --lib --test golden --test library --test cli on_a_gpu

test-report: build
	python3 -B tests/browser/check_report.py

test-web: build web-runtime
	python3 -B tests/browser/check_web.py

test-explain: setup
	cargo test --release --test cli explain_faces -- --ignored --nocapture --test-threads 1

test-faces: setup
	@python3 -B tests/faces/run.py

test-interval: setup
	cargo test --release --test cli the_interval_of_ninety_percent -- --ignored --nocapture

test-ood: setup
	cargo test --release --test cli of_50_images_of_no_face -- --ignored --nocapture

test-paper: setup
	cargo test --release --test cli every_table_of_the_paper -- --ignored --nocapture

test-attacks: build
	python3 -B tests/attacks

kernel-tools: python
	@python3 scripts/setup.py --kernel-tests

test-kernels: kernel-tools
	cd tests/ptx && python3 -B -m unittest test_kernels

test-python: python
	@python3 -B examples/python/run_tests.py

test-onnx: build
	@python3 -B tests/onnx/run_tests.py

kernel-table: kernel-tools
	@cd tests/ptx && python3 -B counts.py

kernel-latency: kernel-tools
	@cd tests/ptx && python3 -B latency.py

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	python3 -B .ci/check_structure.py
	python3 -B .ci/check_words.py

web-runtime: python
	@python3 scripts/setup.py --web

lint-dockerfile: python
	@hadolint=$$(python3 scripts/setup.py --hadolint) && "$$hadolint" Dockerfile && echo "hadolint: no faults in Dockerfile"

clean:
	cargo clean
