"""The page to explore a latent space: its numbers, and a visit to it."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import pyro_vae.explorer
from pyro_vae import (
    VAE,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
)
from pyro_vae.data import load
from pyro_vae.evaluation import estimate_elbo, split_gap
from pyro_vae.explorer import Exhibit, answers, render
from pyro_vae.runs.folder import EXPLORER, FILES
from tests.browser import Visit, open_browser
from tests.commands import error_of, run
from tests.models import bend

IMAGES = 100
MINUS = "\N{MINUS SIGN}"
RUNS = {
    "laplace": dict(prior="laplace", hidden=(32,)),
    "conv": dict(network="conv", channels=(4, 6), hidden=(16,)),
}
FAMILY = {  # every prior, guide, likelihood and size that the page has code for
    "line": dict(latent_dim=1),
    "five": dict(latent_dim=5, likelihood="continuous-bernoulli"),
    "student": dict(prior="student-t", guide="full"),
    "logistic": dict(prior="logistic", guide="laplace"),
    "laplace": dict(prior="laplace", guide="normal", activation="gelu"),
    "peaked": dict(prior="normal", guide="laplace", activation="silu"),
    "mixture": dict(prior="mixture", likelihood="bernoulli"),
    "full": dict(prior="normal", guide="full", activation="elu"),
    "flow": dict(prior="flow", guide="flow", latent_dim=3, init_std=0.1),
    "vamp": dict(prior="vamp", num_components=4, noise="diagonal"),
    "states": dict(prior="categorical", num_components=6),
}


def make_vae(**choices):
    settings = {"hidden": (12,), "init_std": 0.4, "noise_scale": 0.4, **choices}
    if settings.get("likelihood", "gaussian") != "gaussian":
        del settings["noise_scale"]
    return bend(build(Config(**settings), 64, (8, 8)))


@pytest.fixture(scope="module")
def data():
    torch.set_default_dtype(torch.float64)
    return load("digits").first(IMAGES)


@pytest.fixture(scope="module")
def vaes():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    return {name: make_vae(**choices) for name, choices in RUNS.items()}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def visit(tmp_path_factory, browser, vaes, data):
    """A page of two runs, open in a browser."""
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        exhibits = [Exhibit(name, vae, data) for name, vae in vaes.items()]
        path = folder / "explorer.html"
        path.write_text(render(exhibits, num_prepared=3), encoding="utf-8")
    visit = Visit(browser.new_page(viewport={"width": 1200, "height": 800}))
    visit.open(path)
    return visit


def hasten(patch):
    """Takes fewer steps to the best q, and samples for log p(x)."""
    patch.setattr(answers, "split_gap", split_quickly)
    patch.setattr(answers, "default_method", lambda vae: "importance")


def split_quickly(vae, x, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few samples
        return split_gap(vae, x, method, num_steps=6, num_samples=200)


NUMBERS = """async ({number, z, images}) => {
  const run = explorer.runs[number];
  await run.dataset.load();
  await run.load();
  const {model, dataset} = run;
  const start = performance.now();
  const decoded = z.map((one) => Array.from(model.decode(one)));
  const time = (performance.now() - start) / z.length;
  const pixels = images.map((i) => Array.from(dataset.image(i)));
  const inferred = pixels.map((image) => model.infer(image).normals()[0]);
  return {decoded, time, inferred, pixels};
}"""


@pytest.mark.parametrize("name", RUNS)
def test_the_pages_numbers_are_the_packages(visit, vaes, data, name):
    vae, x = vaes[name], data.test[:IMAGES]
    q = vae.infer(x)
    z = q.sample()
    found = visit.run(
        NUMBERS,
        {
            "number": list(RUNS).index(name),
            "z": z.tolist(),
            "images": list(range(len(x))),
        },
    )
    print(f"{name}: a decode takes {found['time']:.2f} ms")
    assert torch.equal(torch.tensor(found["pixels"]).float(), x.float())
    decoded = torch.tensor(found["decoded"])
    assert (decoded - vae.generate(z)).abs().max() < 2e-3
    assert decoded.std(0).max() > 0.05  # the images differ
    loc = torch.tensor([one["mean"] for one in found["inferred"]])
    covariance = torch.tensor([one["covariance"] for one in found["inferred"]])
    deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert (loc - q.mean).abs().max() < 1e-3
    assert (deviation - q.variance.sqrt()).abs().max() < 1e-3


FAMILYS_NUMBERS = """async ({number, z, indices}) => {
  const run = explorer.runs[number];
  await run.load();
  const {model, dataset} = run;
  const images = indices.map((i) => dataset.image(i));
  const q = images.map((image) => model.infer(image));
  const pairs = (f) => indices.map((_, k) => f(images[k], z[k], q[k]));
  return {
    mean: pairs((x, z) => Array.from(model.decode(z))),
    likelihood: pairs((x, z) => model.logLikelihood(x, z)),
    prior: pairs((x, z) => model.prior.logDensity(z)),
    guide: pairs((x, z, q) => q.logDensity(z)),
    elbo: pairs((x, z, q) => model.elbo(x, q)),
  };
}"""


@torch.no_grad()
def test_every_part_that_the_page_runs_is_the_packages(tmp_path, browser, data):
    vaes = {name: make_vae(**choices) for name, choices in FAMILY.items()}
    exhibits = [Exhibit(name, vae, data) for name, vae in vaes.items()]
    path = tmp_path / "explorer.html"
    path.write_text(render(exhibits, num_prepared=0), encoding="utf-8")
    x = data.test[:4]
    visit = Visit(browser.new_page())
    visit.open(path)
    for number, (name, vae) in enumerate(vaes.items()):
        if name == "states":
            continue
        q = vae.infer(x)
        z = q.sample()
        found = visit.run(
            FAMILYS_NUMBERS,
            {"number": number, "z": z.tolist(), "indices": [0, 1, 2, 3]},
        )
        expected = {
            "mean": vae.generate(z),
            "likelihood": vae.likelihood(z).log_prob(x),
            "prior": vae.prior().log_prob(z),
            "guide": q.log_prob(z),
        }
        for what, values in expected.items():
            torch.testing.assert_close(
                torch.tensor(found[what]), values, rtol=2e-4, atol=2e-4
            )
        exact = estimate_elbo(vae, x, 1000)
        for one, value, error in zip(
            found["elbo"], exact.value, exact.error, strict=True
        ):
            spread = (one["error"] ** 2 + error.item() ** 2) ** 0.5
            # 64 samples: the error itself is known to a tenth.
            assert abs(one["value"] - value.item()) < 6 * spread, name
    assert not visit.complaints
    assert not visit.requests


def wait(visit):
    """Waits for two frames of the page."""
    visit.run(
        "() => new Promise((f) => requestAnimationFrame(() => "
        "requestAnimationFrame(f)))"
    )


def place_of(visit, index):
    """Returns the pixel, in the window, of a test image's point."""
    return visit.run(
        """(index) => {
          const map = explorer.maps[0];
          const [x, y] = map.view.toPixel(map.run.point(index));
          const box = map.canvas.getBoundingClientRect();
          return [box.left + x, box.top + y];
        }""",
        index,
    )


def pixels_of(visit, selector):
    return visit.run(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const context = canvas.getContext("2d");
          const {width, height} = canvas;
          const {data} = context.getImageData(0, 0, width, height);
          return Array.from(data.filter((_, i) => i % 4 === 0));
        }""",
        selector,
    )


def switch_to(visit, name):
    visit.page.click(f"#runs button:text-is('{name}')")
    wait(visit)


def test_moving_decodes_what_is_under_the_pointer(visit, vaes):
    switch_to(visit, "laplace")
    x, y = place_of(visit, 0)
    seen = []
    for shift in (-60, 0, 60):
        visit.page.mouse.move(x + shift, y)
        wait(visit)
        numbers = re.findall(rf"[{MINUS}\d.]+", visit.text("#place"))
        z = [float(n.replace(MINUS, "-")) for n in numbers]
        expected = vaes["laplace"].generate(torch.tensor([z]))[0]
        shown = torch.tensor(pixels_of(visit, "#decoded")) / 255
        assert (shown - expected).abs().max() < 0.02  # z has two decimals
        seen.append(shown)
    assert (seen[0] - seen[2]).abs().max() > 0.02
    assert visit.run("() => explorer.timings.decode") >= 0


def test_a_click_shows_the_image_and_its_answers(visit, vaes, data):
    switch_to(visit, "laplace")
    visit.page.click("#strip button >> nth=0")
    prepared = visit.run("() => explorer.dataset.words.prepared")
    index = visit.run("() => explorer.choice.index")
    assert index == prepared[0]
    gaps = split_quickly(vaes["laplace"], data.test[prepared], "importance")
    text = visit.text("#chosen")
    for value in (gaps.log_marginal_likelihood[0], gaps.elbo[0]):
        assert f"{value.item():.2f}".replace("-", MINUS) in text
    assert "approximation" in text and "amortization" in text
    assert (
        visit.run("() => explorer.maps[0].chosen.posterior.lines[1].length") > 8
    )
    # And a point of the map, whose answers the page makes of its own.
    other = next(i for i in range(IMAGES) if i not in prepared)
    visit.page.mouse.click(*place_of(visit, other))
    chosen = visit.run("() => explorer.choice.index")
    assert chosen == visit.run(
        "([x, y]) => { const box = explorer.maps[0].canvas"
        ".getBoundingClientRect(); return explorer.maps[0]"
        ".nearest([x - box.left, y - box.top]); }",
        place_of(visit, other),
    )
    assert f"Test image {chosen}" in visit.text("#chosen-title")
    assert "ELBO" in visit.text("#chosen")


def test_a_drag_walks_from_a_to_b(visit):
    switch_to(visit, "laplace")
    x, y = place_of(visit, 0)
    visit.page.mouse.move(x - 80, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x, y + 20, steps=3)
    visit.page.mouse.move(x + 80, y + 40, steps=3)
    visit.page.mouse.up()
    assert visit.page.locator("#film canvas").count() == 9
    first = pixels_of(visit, "#film canvas:first-child")
    last = pixels_of(visit, "#film canvas:last-child")
    assert first != last
    before = visit.text("#place")
    visit.page.wait_for_timeout(300)
    assert visit.text("#place") != before  # it plays


def test_the_wheel_zooms_and_shift_moves_the_map(visit):
    switch_to(visit, "laplace")
    scale = visit.run("() => explorer.maps[0].view.scaleX")
    visit.page.mouse.move(*place_of(visit, 0))
    visit.page.mouse.wheel(0, -400)
    wait(visit)
    assert visit.run("() => explorer.maps[0].view.scaleX") > 1.5 * scale
    before = place_of(visit, 0)
    visit.page.keyboard.down("Shift")
    visit.page.mouse.down()
    visit.page.mouse.move(before[0] + 40, before[1] - 30, steps=4)
    visit.page.mouse.up()
    visit.page.keyboard.up("Shift")
    after = place_of(visit, 0)
    moved = [a - b for a, b in zip(after, before, strict=True)]
    assert moved == pytest.approx([40, -30], abs=2)
    visit.page.keyboard.press("0")
    assert visit.run("() => explorer.maps[0].view.scaleX") == scale


def test_the_legend_the_looks_and_the_keys(visit):
    switch_to(visit, "laplace")
    count = "() => explorer.maps[0].inView().length"
    before = visit.run(count)
    visit.page.click("#legend button >> nth=0")
    assert visit.run(count) < before
    visit.page.click("#legend button >> nth=0")
    assert visit.run(count) == before
    for key, look in (("p", "density"), ("m", "manifold")):
        visit.page.keyboard.press(key)
        assert visit.is_pressed(f"[data-look={look}]")
    tiles = "() => explorer.maps[0].manifold.tiles.size"
    for _ in range(100):  # a few tiles a frame
        wait(visit)
        if visit.run(tiles) > 100:
            break
    assert visit.run(tiles) > 100
    for key in "pm":
        visit.page.keyboard.press(key)
    visit.page.focus(".map canvas")
    at = visit.run("() => explorer.maps[0].cursor")
    visit.page.keyboard.press("ArrowRight")
    assert visit.run("() => explorer.maps[0].cursor")[0] > at[0]
    visit.page.keyboard.press("Enter")
    assert "Test image" in visit.text("#chosen-title")
    visit.page.keyboard.press("?")
    assert visit.text("#help").count(".") >= 5
    visit.page.keyboard.press("Escape")


def draw(visit, points):
    box = visit.page.locator("#pad").bounding_box()
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in points
    ]
    visit.page.mouse.move(*places[0])
    visit.page.mouse.down()
    for place in places[1:]:
        visit.page.mouse.move(*place, steps=4)
    visit.page.mouse.up()
    wait(visit)


def test_a_drawing_goes_through_the_encoder(visit, vaes):
    switch_to(visit, "laplace")
    visit.page.click("#clear")
    draw(visit, [(0.3, 0.2), (0.6, 0.2), (0.45, 0.8)])
    assert visit.text("#chosen-title") == "Your drawing"
    image = visit.run("() => Array.from(explorer.choice.image)")
    x = torch.tensor([image])
    assert 5 < x.sum() < 40
    # Wherever and however large it is drawn, it comes to stand the same way.
    visit.page.click("#clear")
    draw(visit, [(0.5, 0.5), (0.65, 0.5), (0.575, 0.8)])
    again = visit.run("() => Array.from(explorer.choice.image)")
    assert (torch.tensor([again]) - x).abs().max() < 0.15
    x = torch.tensor([again])
    q = vaes["laplace"].infer(x)
    found = visit.run("() => explorer.maps[0].chosen.q.normals()[0].mean")
    assert found == pytest.approx(q.mean[0].tolist(), abs=1e-3)
    (said,) = re.findall(rf"ELBO\s+({MINUS}?[\d.]+)", visit.text("#chosen"))
    value = float(said.replace(MINUS, "-"))
    exact = estimate_elbo(vaes["laplace"], x, 4000)
    error = visit.run(
        "() => explorer.runs[0].model.elbo(explorer.choice.image, "
        "explorer.maps[0].chosen.q).error"
    )
    assert abs(value - exact.value.item()) < 6 * error + 0.05


def test_runs_are_switched_and_stand_side_by_side(visit):
    switch_to(visit, "laplace")
    visit.page.click("#strip button >> nth=1")
    first = visit.text("#chosen")
    switch_to(visit, "conv")
    assert visit.is_pressed("#runs button:text-is('conv')")
    assert visit.text("#chosen") != first  # the same image in another run
    switch_to(visit, "side by side")
    assert visit.page.locator(".map canvas").count() == 2
    text = visit.text("#chosen")
    assert "laplace" in text and "conv" in text
    assert visit.page.locator("#chosen .bar").count() == 2


def test_the_visit_made_no_complaint_and_no_request(visit):
    first = visit.run("() => explorer.timings.firstPicture")
    print(f"the first picture stood after {first:.0f} ms")
    assert not visit.complaints
    assert not visit.requests


def test_the_command_writes_a_page_beside_the_run(tmp_path, monkeypatch):
    hasten(monkeypatch)
    fit = ["--dataset", "digits", "--epochs", 1, "--hidden", 8, "--limit", 60]
    run(tmp_path, "fit.py", *fit, "--no-figures", "--output", "one")
    result = run(tmp_path, "explore.py", "one", "--prepared", 2)
    assert result.returncode == 0, result.stderr
    assert "wrote one/explorer.html" in result.stdout
    page = (tmp_path / "one" / "explorer.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "normal prior" in page
    # A new run in the folder does not keep the old one's page.
    assert EXPLORER in FILES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run was given"),
        (["one", "--prepared", "0"], "--prepared is 0; expected at least 1"),
        (["one", "--megabytes", "0"], "--megabytes is 0"),
        (["one", "--output", "no/page.html"], "a folder that exists"),
        (["one"], "one"),
    ],
)
def test_what_makes_no_page_is_refused(tmp_path, words, said):
    assert said in error_of(run(tmp_path, "explore.py", *words))


def test_the_page_keeps_to_its_size(vaes, data):
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        exhibit = Exhibit("laplace", vaes["laplace"], data)
        whole = render([exhibit], num_prepared=1)
        small = render(
            [exhibit], num_prepared=1, megabytes=len(whole) / 1e6 - 0.001
        )
    assert len(small.encode()) < len(whole.encode()) - 500


def test_what_the_page_cannot_run_is_refused_by_name(data):
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.Softsign())
    encoder = torch.nn.Linear(64, 4)
    vae = VAE(NormalPrior(2), GaussianLikelihood(decoder), NormalGuide(encoder))
    with pytest.raises(ValueError, match="no code for the layer Softsign"):
        render([Exhibit("own", vae, data)])


def test_a_conditional_vae_is_refused_by_name(data):
    vae = build(Config(condition="labels"), 64, (8, 8), num_labels=10)
    with pytest.raises(ValueError, match="own is conditional on labels"):
        render([Exhibit("own", vae, data)])


def test_the_pages_files_are_small_and_readable():
    folder = Path(pyro_vae.explorer.__file__).parent / "page"
    files = sorted(folder.iterdir())
    assert {path.suffix for path in files} == {".js", ".css", ".html"}
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 320, path
        assert max(map(len, lines)) <= 240, path
        if path.suffix == ".js":
            assert lines[0].startswith("/** "), path  # says what it is for
