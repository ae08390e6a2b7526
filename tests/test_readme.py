"""What the README and docs/ say works: their Python runs and prints what stands there, their commands exist and run."""

from __future__ import annotations

import ast
import os
import re
import sys

import pytest
from conftest import FAST, ROOT, run_cli
from models.test_two_tower import planted

import mmtfrs
from mmtfrs import fusion
from mmtfrs.errors import ConfigError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query, results

TEXT = (ROOT / "README.md").read_text()
PAGES = TEXT + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


def _blocks(language):
    """Of the README and the pages of docs/."""
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```$", PAGES, re.M | re.S) if name == language]


def _run(code, folder):
    os.chdir(folder)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.long
def test_ten_lines_print_what_the_readme_says(demo, tmp_path, jobs, real_encoders):
    """Takes half a minute: every image and text, and ten epochs on the whole demo catalog, as the README has them."""
    (tmp_path / "demo").symlink_to(demo)
    (code,) = (block for block in _blocks("python") if "TwoTower" in block)
    job = jobs(_run, code, tmp_path)
    assert job.wait() == 0, job.stderr[-2000:]
    said = re.search(r"^prints\n\n```\n(.*?)^```", TEXT, re.M | re.S)[1].splitlines()
    found = job.stdout.strip().splitlines()
    assert found[1] == said[1] == "saved_models/shop/1"
    numbers, expected = ast.literal_eval(found[0]), ast.literal_eval(said[0])
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, abs=0.02), name  # other CPUs round otherwise


def test_a_fusion_of_ones_own(tmp_path, jobs):
    """The example of docs/extending.md: written to a file, checked, trained with, exported, and asked without it."""
    module, check = [code for code in _blocks("python") if "LengthFusion" in code]
    (tmp_path / "shop_fusions.py").write_text(module)
    (tmp_path / "c.yaml").write_text(next(code for code in _blocks("yaml") if "LengthFusion" in code))
    job = jobs(_train_with_own, str(tmp_path), check)
    assert job.wait() == 0, job.stderr[-2000:]
    model = LoadedModel(tmp_path / "m")
    assert len(results(model.ask(*Query("u1").request()))) > 10
    refused = run_cli("config", tmp_path / "c.yaml", "--changed")
    assert refused.returncode == 0 and "shop_fusions:LengthFusion" in refused.stdout
    with pytest.raises(ConfigError, match="nowhere cannot be imported"):
        fusion.get("nowhere:Mine")
    with pytest.raises(ConfigError, match="json has no Mine"):
        fusion.get("json:Mine")
    with pytest.raises(ConfigError, match="must be a subclass of mmtfrs.fusion.Fusion"):
        fusion.get("json:dumps")


def _train_with_own(folder, check):
    sys.path.insert(0, folder)
    exec(compile(check, "extending.md", "exec"), {"__name__": "__main__"})
    catalog, features, events = planted()
    config = mmtfrs.Config.read(f"{folder}/c.yaml").replace(**FAST)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    assert type(model.candidate_tower.fusion).__name__ == "LengthFusion"
    model.compile(optimizer="adam")
    model.fit(model.dataset(events), verbose=0)
    mmtfrs.export(model, f"{folder}/m")


def test_config_example_is_valid(tmp_path):
    from mmtfrs import Config
    from tuning.space import Space

    settings, search = [code for code in _blocks("yaml") if "LengthFusion" not in code]
    (tmp_path / "c.yaml").write_text(settings)
    assert Config.read(tmp_path / "c.yaml").data.columns.items == {"item_id": "sku", "text": "title"}
    (tmp_path / "s.yaml").write_text(search)
    space = Space(Config.read(tmp_path / "s.yaml"))
    assert space.fixed == {"loss.name": "softmax"} and space.parts["model.graph.neighbors"].values == (0, 10)


def test_every_command_is_run_by_a_test_or_by_make():
    """Commands of the README's blocks are those of the demo script or of a test, with the same options."""
    demo = (ROOT / "scripts" / "demo.sh").read_text()
    makefile = (ROOT / "Makefile").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != "test_readme.py")
    commands = [line for block in _blocks("") for line in block.splitlines() if re.match(r"(make|mmtfrs|python -m) ", line)]
    assert len(commands) >= 10
    for line in commands:
        words = line.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.M), line
            continue
        name = " ".join(words[:2]) if words[0] == "mmtfrs" else " ".join(words[:3])
        started = (
            rf'(run_cli\(|"mmtfrs\.cli\.app", |\[){{1}}"{words[1]}", ' if words[0] == "mmtfrs" else rf'module="{words[2]}"'
        )
        assert name in demo or re.search(started, tests), line
    for name in ("check", "extract", "train", "evaluate", "export", "recommend"):
        lines = [line for line in commands if line.startswith(f"mmtfrs {name} ")]
        used = {word for line in lines for word in line.split() if word.startswith("--")}
        assert lines and used <= set(re.findall(r"--[a-z0-9-]+", run_help(name))), name


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(TEXT.splitlines()) <= 250
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_options_of_the_search_exist():
    (line,) = {line for block in _blocks("") for line in block.splitlines() if line.startswith("mmtfrs tune")}
    text = run_cli("tune", "--help")
    used = {word for word in line.split() if word.startswith("--")}
    assert len(used) > 5 and used <= set(re.findall(r"--[a-z-]+", text.stdout))


def run_help(name):
    return run_cli(name, "--help").stdout
