"""A run of a model that was trained elsewhere: what has no records says why, and every instrument answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import cloche
from cloche.data import prepare
from cloche.microscope import make_app, write_report
from cloche.microscope.report import parameters
from cloche.microscope.serving import worker
from cloche.microscope.serving.guard import TOKEN_HEADER
from cloche.model import save_network
from cloche.runs import Revision, Run, adopt

TEXT = "the cat sat on the mat, and a dog ran after the cat. " * 30
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A random model with some text, adopted."""
    home = tmp_path_factory.mktemp("adopted")
    tokenizer = cloche.train_bpe([TEXT], vocab=300)
    block = cloche.Block(cloche.Attention(2, position=cloche.RoPE()), cloche.GLU("silu", 48))
    save_network(cloche.LM(tokenizer.vocab, 32, cloche.Stack(2, block)).build(seed=0), home / "model")
    tokenizer.save(home / "model")
    for number in range(4):
        (home / f"{number}.txt").write_text(TEXT * 6)
    texts = [home / f"{number}.txt" for number in range(4)]
    revision = Revision(0, "main", home / "model", (home / "model" / "model.safetensors",), home / "model")
    pack = lambda folder: prepare(texts, folder, vocab=tokenizer)  # noqa: E731
    return adopt(home / "run", "hf://owner/<name>", [revision], pack=pack).run


def test_the_report_says_why_it_has_no_curves(adopted: Run) -> None:
    page = write_report(adopted.path).read_text()
    assert "adopted from hf://owner/&lt;name&gt; and not trained here, so there are no curves" in page
    assert "How it learned" not in page and f"cloche pretrain --from {adopted.path} --out RUN" in page
    assert "cloche resume" not in page


def test_parameters_are_counted(adopted: Run) -> None:
    from cloche.microscope.folder.reading import RunFiles

    net = cloche.load(adopted).net
    assert parameters(RunFiles(adopted.path)) == sum(p.numel() for p in net.parameters())


def look(adopted: Run, instrument: str, **options: str) -> dict:
    folder = str(adopted.path / "checkpoints" / "step-000000")
    return worker.answer({"id": 1, "ask": "look", "checkpoint": folder, "instrument": instrument, "options": options})


def test_every_instrument_answers_by_its_name(adopted: Run, tmp_path: Path) -> None:
    lens = look(adopted, "logit-lens", prompt="the cat")["ok"]
    assert lens["data"]["prompt"] == "the cat" and lens["panels"]
    density = look(adopted, "activation_density", windows="600")["ok"]
    assert density["instrument"] == "activation-density" and density["figures"]["active"] > 0
    assert "no instrument 'logit-lense'" in look(adopted, "logit-lense")["error"]
    (tmp_path / "secret.txt").write_text("secret")
    said = look(adopted, "activation-density", windows=str(tmp_path / "secret.txt"))["error"]
    assert "only on the command line" in said
    assert "train it with `cloche look" in look(adopted, "tuned-lens", prompt="the cat")["error"]
    for folder in ("data", "lenses"):
        (adopted.path / folder).mkdir(exist_ok=True)
        (adopted.path / folder / "link").symlink_to(tmp_path / "secret.txt")
        try:
            assert "leads outside" in look(adopted, "activation-density", windows="600")["error"]
        finally:
            (adopted.path / folder / "link").unlink()


def test_what_is_no_question_is_refused(adopted: Run, standin) -> None:
    app = make_app(adopted.path, standin())
    with TestClient(app, base_url=LOCAL) as client:

        def asked(**body: object) -> tuple[int, str]:
            answer = client.post("/api/look", json=body, headers={TOKEN_HEADER: app.state.token})
            return answer.status_code, answer.text

        for body in (
            {"checkpoint": "step-000000"},
            {"checkpoint": "step-000000", "instrument": 3},
            {"checkpoint": "step-000000", "instrument": "logit-lens", "options": ["prompt"]},
            {"checkpoint": "step-000000", "instrument": "logit-lens", "options": {"prompt": "x" * 5_000}},
        ):
            assert asked(**body)[0] == 400
        assert "no checkpoint 'step-000009'" in asked(checkpoint="step-000009", instrument="logit-lens")[1]
        assert client.post("/api/look", json={}).status_code == 403


@pytest.mark.slow
def test_it_opens_on_the_first_view_with_content(adopted: Run, serving, page) -> None:
    url = serving(adopted.path).rstrip("/")
    page.goto(url)
    page.get_by_role("heading", name="No prompt yet").wait_for()
    assert page.locator("nav a[aria-current=page]").inner_text() == "Logit lens"
    page.get_by_role("link", name="Curves").click()
    page.get_by_text("was adopted from hf://owner/<name>").wait_for()
    page.goto(f"{url}/#/curves")
    page.get_by_text("was adopted from hf://owner/<name>").wait_for()


@pytest.mark.slow
def test_every_view_without_records_says_why(adopted: Run, serving, page) -> None:
    url = serving(adopted.path)
    for view in ("curves", "health", "growing"):
        page.goto(f"{url}#{view}")
        page.get_by_text("was adopted from hf://owner/<name>").wait_for()
        assert "cloche pretrain --from" in page.content()
