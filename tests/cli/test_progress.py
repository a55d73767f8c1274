import io

import pytest
from rich.console import Console

from cloche.cli.progress import Screen

RECORDS = [
    {"log": "events", "step": 0, "kind": "start", "message": "training in bf16"},
    {"log": "metrics", "step": 0, "val_loss": 8.3, "val_bpb": 3.5},
    {"log": "samples", "step": 0, "prompt": "def ", "text": "a\n\tb\x00[red]", "next": []},
    {"log": "samples", "step": 0, "prompt": "The ", "text": "second prompt", "next": []},
    {"log": "metrics", "step": 10, "loss": 6.25, "tokens_per_second": 11234.0, "mfu": 0.52, "eta": 125.0, "lr": 1e-3},
    {"log": "health", "step": 10},
    {"log": "events", "step": 12, "kind": "spike", "message": "step 12: the loss jumped"},
    {"log": "metrics", "step": 20, "val_loss": 4.0, "val_bpb": 1.75},
    {"log": "events", "step": 20, "kind": "finished", "message": "finished 20 steps"},
]


def screen(**how: object) -> tuple[Screen, io.StringIO]:
    made, out = Screen(), io.StringIO()
    made.console = Console(file=out, width=200, markup=False, highlight=False, **how)  # type: ignore[arg-type]
    made.live = made.console.is_terminal
    return made, out


def test_plain_lines_say_all_that_matters_once() -> None:
    made, out = screen()
    growth = made.follow(RECORDS, steps=20)
    lines = out.getvalue().splitlines()
    assert lines == [
        "       0 │ training in bf16",
        "growing step 0/20 · val 3.500 bits/byte",
        "       0 │ def a↵→b\\x00[red]",
        "      12 │ step 12: the loss jumped",
        "growing step 20/20 · loss 6.250 · val 1.750 bits/byte · 11,234 tok/s · MFU 52% · 2:05 left",
        "      20 │ finished 20 steps",
    ]
    assert (growth.ended, growth.step, growth.metrics["val_bpb"]) == ("finished", 20, 1.75)


def test_a_live_terminal_redraws_one_line_and_keeps_the_samples() -> None:
    made, out = screen(force_terminal=True)
    made.follow(RECORDS, steps=20)
    assert "2:05 left" in out.getvalue()
    assert "def a↵→b\\x00[red]" in out.getvalue()


def test_a_record_that_is_not_finite_reads_as_unknown() -> None:
    made, out = screen()
    made.follow([{"log": "metrics", "step": 1, "loss": None, "val_bpb": 2.0}], steps=5)
    assert out.getvalue() == "growing step 1/5 · val 2.000 bits/byte\n"


def test_a_bar_tells_its_stage() -> None:
    made, out = screen()
    with made.bar("packing") as update:
        update(1, 2, "1 MB")
    assert out.getvalue() == "packing …\n"


def test_a_reader_that_is_gone_is_an_error_and_not_an_exit() -> None:
    made = Screen()

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    made.console.file = Gone()
    with pytest.raises(BrokenPipeError):
        made.print("hello")
