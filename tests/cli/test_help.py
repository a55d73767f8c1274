"""Help comes at once: nothing heavy is imported for it."""

import subprocess
import sys

import pytest

VERBS = (
    "demo",
    "pretrain",
    "resume",
    "recipe",
    "report",
    "generate",
    "open",
    "verify",
    "doctor",
    "sindy",
    "sparse",
    "sae",
)
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "pyarrow", "rich", "starlette", "uvicorn", "safetensors")
CODE = f"""
import sys
from cloche.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""


def run(*words: str) -> str:
    return subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)])
def test_help_is_given_without_heavy_imports(verb: tuple[str, ...]) -> None:
    out = run(*verb, "--help")
    assert "Usage: cloche" in out
    assert out.endswith("HEAVY []\n")


def test_help_names_every_verb_in_a_whole_sentence() -> None:
    lines = {words[0]: line for line in run("--help").splitlines() if (words := line.split()) and words[0] in VERBS}
    assert tuple(lines) == VERBS
    assert all(line.endswith(".") and not line.endswith("...") for line in lines.values())


def test_version() -> None:
    from cloche import __version__

    assert run("--version").startswith(f"cloche {__version__}\n")
