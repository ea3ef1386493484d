"""What a shell, a container or a user's settings do to a command, as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import quaver

QUAVER = [sys.executable, "-m", "quaver"]
#: A second's work: enough for a table, a file and progress.
TRAIN = ["train", "--epochs", "1", "--batch", "512"]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([*QUAVER, *arguments], **settings)  # type: ignore[call-overload]


def closed_pipe() -> int:
    """A descriptor to write to that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize("arguments", [["--help"], ["verilog", "--help"], ["verilog", "lfsr"], TRAIN])
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_a_pipe_that_closes_ends_nothing(arguments: list[str], closed: str) -> None:
    pipe = closed_pipe()
    to = {name: pipe for name in ("stdout", "stderr") if closed in (name, "both")}
    done = run(*arguments, capture_output=False, **{"stdout": -1, "stderr": -1} | to)
    os.close(pipe)
    assert done.returncode == 0
    assert "Traceback" not in str(done.stderr)
    assert "Exception" not in str(done.stderr)


def test_files_are_written_though_nobody_reads_the_table(tmp_path: Path) -> None:
    pipe = closed_pipe()
    files = ["-o", str(tmp_path / "p.json"), "--figure", str(tmp_path / "p.png")]
    assert run("plan", "mlp-digits", *files, capture_output=False, stdout=pipe, stderr=-1).returncode == 0
    os.close(pipe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.png"]


def test_a_mismatch_stays_one_though_nobody_reads_it() -> None:
    program = """
import sys
from quaver import cli
from quaver.cli import compare
from quaver.golden.engine import GoldenEngine
class Broken(GoldenEngine):
    def gemm(self, arithmetic, a, b, *, seed=None):
        return super().gemm(arithmetic, a, b, seed=seed) ^ 1
compare.make_engine = lambda name, args: Broken()
sys.exit(cli.main(["compare"]))
"""
    pipe = closed_pipe()
    assert subprocess.run([sys.executable, "-c", program], stdout=pipe, stderr=-1).returncode == 1
    os.close(pipe)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(tmp_path: Path, closed: str) -> None:
    """No file that is opened later takes their place."""
    line = f"exec {' '.join(QUAVER)} {' '.join(TRAIN)} --out {tmp_path / 'run'} {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "│" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    resumed = run(*TRAIN, "--resume", "--out", str(tmp_path / "run"))
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", ["verilog lfsr", "--version", "--help", "plan --help", ""])
def test_a_full_disk_is_said(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*command.split(), capture_output=False, stdout=full, stderr=-1)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_in_any_encoding(encoding: str) -> None:
    done = run(*TRAIN, env=os.environ | {"PYTHONIOENCODING": encoding}, text=False)
    assert done.returncode == 0
    assert b"test accuracy" in done.stdout
    assert "Traceback" not in done.stderr.decode(encoding)
    if encoding == "ascii":
        assert b"| epoch |" in done.stdout
        assert b"1x8x8" in done.stdout or b"64" in done.stdout
        assert b"?" not in done.stdout


def test_the_c_locale() -> None:
    """Without Python's own way out of it."""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run(*TRAIN, env=os.environ | plain, text=False)
    assert done.returncode == 0
    assert b"| epoch |" in done.stdout


def test_what_is_unexpected_is_told_apart() -> None:
    """Not status 1, which is a mismatch, nor 2, which is bad input."""
    program = """
import sys
from quaver import cli
from quaver.cli import plan
def broken(args):
    return {}["key"]
plan.run = broken
sys.exit(cli.main([*sys.argv[1:], "plan", "mlp-digits"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 70
    assert "quaver plan: KeyError: 'key' (a fault of Quaver's own; quaver --traceback plan" in done.stderr
    assert done.stderr.count("\n") == 1
    done = subprocess.run([sys.executable, "-c", program, "--traceback"], capture_output=True, text=True)
    assert done.returncode == 70
    assert "in broken" in done.stderr


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_ctrl_c_while_importing(delay: float) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from quaver import cli; finished = cli._finished\n"
        "cli._finished = lambda argv: (print('begun', flush=True), finished(argv))[1]\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "train", "--epochs", "1000"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as begun:
        assert begun.stdout is not None
        assert begun.stderr is not None
        assert begun.stdout.readline() == "begun\n"
        time.sleep(delay)
        begun.send_signal(signal.SIGINT)
        said = begun.stderr.read()
    assert begun.returncode == 130, said
    assert "Traceback" not in said


#: Root without its privileges, for where no other user may run this Python.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def everyone_may_run_python() -> bool:
    return all(path.stat().st_mode & 0o001 for path in Path(sys.executable).resolve().parents)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not everyone_may_run_python(), reason="this Python is in a folder of its user's own")
@pytest.mark.parametrize("arguments", [["plan", "mlp-digits"], ["verilog", "lfsr"], TRAIN])
def test_no_home_no_cache_another_user(arguments: list[str]) -> None:
    """As in a container: an install and a home that are only to be read, a user whom the system does not
    know."""
    with TemporaryDirectory() as folder:
        where = Path(folder)
        where.chmod(0o755)
        package, home, temporary = where / "install" / "quaver", where / "home", where / "tmp"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(quaver.__file__).parent, package, ignore=ignored)
        home.mkdir()
        temporary.mkdir()
        temporary.chmod(0o1777)
        for path in (home, where / "install", *(where / "install").rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(package.parent), *filter(None, sys.path)]),
            "HOME": str(home),
            "TMPDIR": str(temporary),
        }
        command = [*QUAVER, *arguments]
        options = {"env": environment, "cwd": temporary, "capture_output": True, "text": True}
        try:
            done = subprocess.run(command, user=54321, group=54321, extra_groups=[], **options)  # type: ignore[call-overload]
        except PermissionError:
            if shutil.which("setpriv") is None:
                pytest.skip("no other user may run this Python")
            done = subprocess.run([*UNPRIVILEGED, *command], **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        notices = [line for line in done.stderr.splitlines() if "cannot be written" in line]
        assert len(notices) == 1, done.stderr
        if arguments == TRAIN:
            assert list(temporary.rglob("*.nbi"))


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "doctor",
        "plan --help",
        "plan resnet18-imagenet",
        "plan mlp-digits",
        "plan cnn-cifar10",
        "plan resnet8-mnist",
        "verilog accelerator --rows 1 --columns 1 --stages 1",
        "verilog pe --arithmetic bitstream",
    ],
)
def test_what_needs_no_kernel_imports_none(arguments: str) -> None:
    """And so it begins at once, and where nothing can be compiled."""
    program = (
        "import sys; sys.modules['numba'] = None\nfrom quaver import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
