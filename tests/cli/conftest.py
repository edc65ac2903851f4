"""A folder in which a model was trained for two steps a stage, by the command line itself."""

import contextlib
import io
import os
import sys

import pytest

QUICK = tuple(
    f"stages.{stage}.{change}"
    for stage in ("align", "tune", "prefer")
    for change in ("max_steps=2", "warmup_steps=0", "batch_size=2", "precision=float32")
)


class Result:
    def __init__(self, code, out, error):
        self.code, self.out, self.error = code, out, error


def run(*args):
    """Run `phantrol ARGS` in this process; return exit code, standard output and standard error."""
    from phantrol.cli import main

    out, error, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["phantrol", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    return Result(code, out.getvalue(), error.getvalue())


@pytest.fixture(scope="session")
def phantrol():
    """A function that runs `phantrol ARGS`."""
    return run


@pytest.fixture(scope="session")
def quick():
    """Overrides that make the recipe primer_tiny a matter of seconds."""
    return QUICK


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with runs/demo, which `phantrol demo` filled."""
    folder = tmp_path_factory.mktemp("workplace")
    with inside(folder):
        done = run("demo", *QUICK, "--limit", 2)
    assert done.code == 0, done.error
    done.folder = folder
    return done


@contextlib.contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def here(workplace):
    """Run the test inside the workplace."""
    with inside(workplace.folder):
        yield workplace.folder
