"""The process that builds engines may die, hang or run out of memory, and engines are kept and checked."""

import json
import os

import pytest

from hwsearch.backends._nvidia._build import Engines, Target, load_engine, save_engine
from hwsearch.errors import BuildFailed, CorruptFile, FileError, NewerVersion, WrongDevice

TARGET = Target("10.99.1", ("89",), "NVIDIA Stand-In 1")
TROUBLES = [
    ("os.kill(os.getpid(), signal.SIGSEGV)", r"died of signal 11 \(SIGSEGV\).*The log ends: \[TRT\] building 5 bytes"),
    ("os.kill(os.getpid(), signal.SIGKILL)", r"died of signal 9 \(SIGKILL; .*memory runs out"),
    ("resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)); bytearray(2**30)", "exit code 1.*MemoryError"),
    ("time.sleep(60)", r"took more than 1 s, and was stopped.*building 5 bytes"),
    ("print(json.dumps({'why': 'out of GPU memory'}), flush=True); continue", "out of GPU memory.*building 5"),
    ("print('{', flush=True, end=''); sys.exit(3)", "exit code 3"),
]


@pytest.fixture
def engines(builder, tmp_path):
    made = []

    def make(trouble="pass", target=TARGET, **options):
        made.append(Engines(tmp_path / "engines", target, worker=builder(trouble), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("trouble", "words"), TROUBLES)
def test_whatever_happens_to_the_builder_is_one_clear_error(engines, trouble, words):
    some = engines(trouble, timeout_s=1)
    assert some.build(b"right", "this") == b"plan of right"
    with pytest.raises(BuildFailed, match=f"(?s)TensorRT 10.99.1 cannot build block-a: .*{words}"):
        some.build(b"wrong", "block-a")
    assert some.build(b"other", "that") == b"plan of other"


@pytest.mark.parametrize("closed", [True, False])
def test_no_process_is_left_behind(builder, tmp_path, closed):
    some = Engines(tmp_path / "engines", TARGET, worker=builder())
    some.build(b"model", "a block")
    process = some._running[0]
    assert process.poll() is None
    if closed:
        some.close()
        some.close()
    del some  # as at the end of Python
    assert process.returncode is not None


def test_an_engine_is_built_once_for_each_model_version_gpu_and_option(engines, tmp_path):
    asked = tmp_path / "asked"

    def count():
        return len(asked.read_text()) if asked.exists() else 0

    for number, (model, target) in enumerate(
        [
            (b"model", TARGET),
            (b"other", TARGET),
            (b"model", Target("10.99.2", ("89",), "NVIDIA Stand-In 1")),
            (b"model", Target("10.99.1", ("89",), "NVIDIA Stand-In 2")),
            (b"model", Target("10.99.1", ("89",), "NVIDIA Stand-In 1", workspace_mib=64)),
        ],
        start=1,
    ):
        assert engines(target=target).build(model, "a block") == b"plan of " + model
        assert count() == number
        assert engines(target=target).build(model, "a block") == b"plan of " + model
        assert count() == number


def test_a_kept_engine_that_was_cut_short_is_built_again(engines, tmp_path):
    engines().build(b"model", "a block")
    (path,) = (tmp_path / "engines").glob("*.engine")
    path.write_bytes(b"pla")
    assert engines().build(b"model", "a block") == b"plan of model"
    assert path.read_bytes() == b"plan of model"


def test_each_version_and_gpu_has_its_own_timing_cache(engines):
    names = {
        engines(target=Target(*some)).timing_cache.name for some in (("10.1", ("89",), "A"), ("10.2", ("89",), "A"), ("10.1", ("89",), "B"))
    }
    assert len(names) == 3
    assert all(os.sep not in name for name in names)


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (Target("11.0", ("89",), "A"), "built by TensorRT 10.1, and here is 11.0"),
        (Target("10.1", ("86",), "A"), "built for SM 89, and here is 86"),
        (Target("10.1", ("89",), "B"), "built on A, and here is B"),
        (Target("10.1", ("89",)), "built on A, and here is none"),
    ],
)
def test_an_engine_of_another_gpu_or_version_is_refused(tmp_path, here, words):
    path = tmp_path / "best.engine"
    save_engine(path, b"plan", Target("10.1", ("89",), "A"), {"a": 1})
    assert load_engine(path, Target("10.1", ("89",), "A")) == b"plan"
    with pytest.raises(WrongDevice, match=words):
        load_engine(path, here)


def test_a_portable_engine_runs_on_each_gpu_that_it_was_built_for(tmp_path):
    path = tmp_path / "best.engine"
    save_engine(path, b"plan", Target("rtx 1.7", ("86", "89")))
    assert load_engine(path, Target("rtx 1.7", ("89",), "any")) == b"plan"
    with pytest.raises(WrongDevice, match="SM 86, 89, and here is 120"):
        load_engine(path, Target("rtx 1.7", ("120",)))


def test_what_is_no_engine_is_refused(tmp_path):
    path, note = tmp_path / "best.engine", tmp_path / "best.engine.json"
    with pytest.raises(FileError, match="engine's note"):
        load_engine(path, TARGET)
    save_engine(path, b"plan", TARGET)
    document = json.loads(note.read_text())
    path.write_bytes(b"another plan")
    with pytest.raises(CorruptFile, match="is not the engine that .* describes"):
        load_engine(path, TARGET)
    note.write_text(json.dumps({**document, "target": {"runtime": "1"}}))
    with pytest.raises(CorruptFile, match="does not say what the engine runs on"):
        load_engine(path, TARGET)
    note.write_text(json.dumps({**document, "version": 99}))
    with pytest.raises(NewerVersion):
        load_engine(path, TARGET)
    note.write_text("{")
    with pytest.raises(CorruptFile):
        load_engine(path, TARGET)
