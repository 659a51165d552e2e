import json
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnasium import spaces
from helpers.extras import NEEDS_ENCODER
from helpers.toy_recipe import ToyRecipe, ToySettings

from envs.check_speed import Speed
from envs.language import AnyText
from llm_agents.cli import commands
from llm_agents.cli import main as cli
from llm_agents.evaluation.results import stored_panels
from llm_agents.evaluation.statistics import success_rate
from llm_agents.evaluation.tables import format_rate
from llm_agents.registry import environments
from llm_agents.runtime.run import Run

COMMANDS = ["train", "evaluate", "compare", "report", "envs", "collect", "doctor", "encoder"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run that is trained and judged."""
    config = ToySettings(note="as in the file")
    run = Run.create(tmp_path_factory.mktemp("trained") / "done", "toy", config.model_dump())
    ToyRecipe().run(config, run)
    return run.folder


@pytest.fixture
def run_folder(trained: Path, toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of it in the working directory, beside its config ``tiny.yaml``."""
    monkeypatch.chdir(toy_config.parent)
    return str(shutil.copytree(trained, "done"))


def test_help_is_fast():
    start = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "llm_agents.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 1
    for command in COMMANDS:
        assert f"\n    {command} " in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exited:
        cli.main([command, "--help"])
    assert exited.value.code == 0
    assert f"usage: llm-agents {command}" in capsys.readouterr().out


def test_help_after_a_config_says_what_each_of_its_fields_means(toy_config: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exited:
        cli.main(["train", str(toy_config), "--policy.num_steps", "3", "--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: llm-agents train" in shown
    assert "  --policy.num_steps 3\n        (int) Steps that are logged.\n" in shown
    assert "  --note as in the file\n" in shown


def test_the_old_name_of_an_option_is_taken_with_a_warning(run_folder: str, capsys: pytest.CaptureFixture):
    arguments = [
        "evaluate",
        run_folder,
        "--episodes",
        "3",
        "--agents",
        "random",
        "--workers",
        "1",
        "--json",
        "out.json",
    ]
    written = []
    for name in ("--wordings", "--phrasings"):
        capsys.readouterr()
        assert cli.main([*arguments, "--split", "easy", name, "given"]) == 0
        warned = "llm-agents: --wordings is called --phrasings now" in capsys.readouterr().err
        assert warned == (name == "--wordings")
        written.append(json.loads(Path("out.json").read_text()))
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "arguments are required: COMMAND"),
        ("trian", "invalid choice: 'trian'"),
        ("train", "arguments are required: CONFIG"),
        ("train nowhere.yaml", "nowhere.yaml cannot be read"),
        ("train tiny.yaml --polcy.num_steps 3", "unknown option '--polcy.num_steps': did you mean --policy.num_steps"),
        ("train tiny.yaml --policy.num_steps many", "--policy.num_steps is 'many', expected a valid integer"),
        ("train tiny.yaml extra", "unexpected 'extra'"),
        ("train tiny.yaml --run done", "already holds a run: continue it with --resume"),
        ("train tiny.yaml --run done --resume --seed 4", "--seed 4 contradicts done/config.yaml, which says 0"),
        ("evaluate", "arguments are required: RUN"),
        ("evaluate nowhere", "nowhere is not a run folder"),
        ("evaluate done --split hrad", "unknown split 'hrad': did you mean hard"),
        ("evaluate done --splt hard", "did you mean --split"),
        ("evaluate done --phrasings newer", "unknown phrasings 'newer'"),
        ("evaluate done --episodes ten", "invalid int value: 'ten'"),
        ("evaluate done --episodes 0", "at least 1 episode"),
        ("evaluate done --split easy --agents randm", "unknown agent 'randm': did you mean random"),
        ("evaluate done --panel nowhere.json", "nowhere.json cannot be read"),
        ("evaluate done --panel tiny.yaml", "tiny.yaml is not JSON"),
        ("evaluate done --panel tiny.yaml --episodes 3", "leave out --phrasings, --episodes and --seed"),
        ("evaluate done --split easy --episodes 2 --json tiny.yaml/a.json", "cannot be written"),
        ("compare done nowhere", "nowhere is not a run folder"),
        ("compare done --baseline randm", "unknown agent 'randm': did you mean random"),
        ("compare done --columns esy", "unknown column 'esy': did you mean easy"),
        ("compare done --against done --oracle expert", "leave out --baseline and --oracle"),
        ("compare done done --against done", "2 runs cannot be paired with 1 others"),
        ("report nowhere", "nowhere is not a run folder"),
        ("envs chek ClevrRobot-v0", "invalid choice: 'chek'"),
        ("envs check ClevrRobt-v0", "did you mean ClevrRobot-v0"),
        ("encoder --env nowhere:Foo-v0", "nowhere:Foo-v0 cannot be made"),
        ("doctor --now", "unexpected '--now'"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    run_folder: str, arguments: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    capsys.readouterr()
    assert cli.main(arguments.split()) == 2
    told = capsys.readouterr().err
    # The progress bar of an evaluation whose result cannot be written is no part of the message.
    lines = told[told.index("llm-agents:") :].splitlines()
    assert len(lines) <= 2
    assert message in told
    assert "Traceback" not in told


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def bug(options):
        raise ValueError("no mistake of the user's")

    monkeypatch.setattr(commands, "doctor", bug)
    with pytest.raises(ValueError, match="no mistake"):
        cli.main(["doctor"])


def test_train_leaves_a_run_and_a_report(toy_config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toy_config.parent)
    assert cli.main(["train", str(toy_config), "--run", "new"]) == 0
    run = Run.open("new")
    assert run.recipe == "toy"
    assert run.config["note"] == "as in the file"
    assert run.commands()[0]["command"] == f"llm-agents train {toy_config} --run new"
    assert (run.folder / "report.html").exists()


def test_train_numbers_its_folders_and_resume_takes_the_last(toy_config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toy_config.parent)
    monkeypatch.setattr("helpers.toy_recipe.ToyRecipe.run", lambda self, config, run: None)
    for arguments in ([], ["--seed", "3"], ["--resume"]):
        assert cli.main(["train", str(toy_config), *arguments]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["toy-tiny-1", "toy-tiny-2"]
    assert Run.open("runs/toy-tiny-2").config["seed"] == 3
    assert len(Run.open("runs/toy-tiny-2").commands()) == 2


def test_resume_starts_what_is_not_there_and_goes_on_with_its_own_config(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    seen = []
    monkeypatch.chdir(toy_config.parent)
    monkeypatch.setattr("helpers.toy_recipe.ToyRecipe.run", lambda self, config, run: seen.append(config))
    assert cli.main(["train", "--policy.num_steps", "7", str(toy_config), "--run", "new", "--resume"]) == 0
    assert "policy.num_steps: 7" in capsys.readouterr().out
    toy_config.write_text(yaml.safe_dump({"recipe": "toy", "note": "edited"}))
    assert cli.main(["train", str(toy_config), "--run", "new", "--resume", "--policy.num_steps=7"]) == 0
    assert "note stays as in the file" in capsys.readouterr().err
    assert seen[0] == seen[1]


def test_a_run_goes_on_with_other_workers(toy_config: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.chdir(toy_config.parent)
    monkeypatch.setattr("helpers.toy_recipe.ToyRecipe.run", lambda self, config, run: seen.append(config.num_workers))
    for more in (["--num_workers", "2"], ["--resume", "--num_workers", "3"], ["--resume"]):
        assert cli.main(["train", str(toy_config), "--run", "new", *more]) == 0
    assert seen == [2, 3, 2]


def test_ctrl_c_says_how_to_go_on(toy_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def stop(self, config, run):
        raise KeyboardInterrupt

    monkeypatch.chdir(toy_config.parent)
    monkeypatch.setattr("helpers.toy_recipe.ToyRecipe.run", stop)
    assert cli.main(["train", str(toy_config)]) == 130
    assert f"llm-agents train {toy_config} --run runs/toy-tiny-1 --resume" in capsys.readouterr().err


def test_evaluate_shows_a_table_and_writes_json(run_folder: str, capsys: pytest.CaptureFixture):
    arguments = ["evaluate", run_folder, "--episodes", "3", "--agents", "random", "--workers", "1"]
    assert cli.main([*arguments, "--json", "all.json"]) == 0
    columns = json.loads(Path("all.json").read_text())
    assert [column["column"] for column in columns] == ["easy", "rephrase (new)"]
    shown = capsys.readouterr().out
    assert all(column["panel"] in shown for column in columns)
    assert cli.main([*arguments, "--split", "easy", "--json", "easy.json"]) == 0
    assert json.loads(Path("easy.json").read_text()) == columns[0]
    assert columns[0]["agents"]["random"]["episodes"] == 3


def test_evaluate_takes_goals_of_your_own(run_folder: str):
    Path("mine.json").write_text('{"goal": "move/left/red", "instruction": "red goes west"}')
    assert cli.main(["evaluate", run_folder, "--panel", "mine.json", "--agents", "random", "--json", "out.json"]) == 0
    written = json.loads(Path("out.json").read_text())
    assert (written["column"], written["split"]) == ("mine", "easy")


@pytest.mark.parametrize("baseline", [None, "half random"])
def test_compare_pairs_with_the_recipes_baseline_or_another(
    baseline: str | None, run_folder: str, capsys: pytest.CaptureFixture
):
    panels = {stored.column: stored.results for stored in stored_panels(Run.open(run_folder))}
    capsys.readouterr()
    asked = ["--baseline", baseline] if baseline else []
    assert cli.main(["compare", run_folder, "--markdown", *asked]) == 0
    rates, differences, fractions = read_tables(capsys.readouterr().out)
    baseline = baseline or "random"  # the toy recipe's
    assert differences.keys() == {"expert", "half random", "random"} - {baseline}
    for column, results in panels.items():
        for agent, result in results.items():
            assert rates[agent][column] == format_rate(result.rate)  # as in the table of the training
            fraction = result.rate.value / results["expert"].rate.value
            assert float(fractions[agent][column]) == pytest.approx(fraction, abs=0.005)
            if agent != baseline:
                difference = np.mean(np.subtract(result.outcomes, results[baseline].outcomes))
                assert differences[agent][column].startswith(f"{difference:+.2f} [")


def read_tables(text: str) -> list[dict[str, dict[str, str]]]:
    """The tables of a Markdown text, by agent and column."""
    tables = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        tables.append({row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows})
    return tables


def test_compare_says_over_how_many_runs(run_folder: str, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert cli.main(["compare", run_folder, run_folder, "--markdown"]) == 0
    assert "success rate, 95 % interval, 2 seeds:" in capsys.readouterr().out


def test_a_table_that_nobody_reads_to_its_end_stops_quietly():
    """As before `| head`."""
    script = """
from rich.table import Table
from llm_agents.runtime.console import print_markdown

table = Table("numbers", title="many")
for number in range(10_000):
    table.add_row(str(number))
print_markdown(table)
"""
    asked = [sys.executable, "-c", script]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "many:\n"
        running.stdout.close()
        assert running.stderr.read() == ""


def test_compare_by_family_parts_each_panel(run_folder: str, capsys: pytest.CaptureFixture):
    assert cli.main(["evaluate", run_folder, "--split", "hard", "--episodes", "12", "--workers", "1"]) == 0
    goals = ToyRecipe().make_env(ToySettings()).task.goal_set
    stored = next(panel for panel in stored_panels(Run.open(run_folder)) if panel.column == "hard")
    families = [goals.find(spec.goal_id).family for spec in stored.panel.specs]
    assert len(set(families)) > 1
    capsys.readouterr()
    assert cli.main(["compare", run_folder, "--markdown", "--by-family", "--columns", "hard"]) == 0
    rates = read_tables(capsys.readouterr().out)[0]
    for agent, result in stored.results.items():
        expected = {}
        for family in set(families):
            own = [outcome for outcome, of in zip(result.outcomes, families, strict=True) if of == family]
            expected[f"hard: {family} ({len(own)})"] = format_rate(success_rate(sum(own), len(own)))
        assert rates[agent] == expected


def test_compare_pairs_runs_with_runs_of_another_config(run_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Each agent with its namesake: here one that plays as the expert in the first run and at random in the other."""
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    for path in (other / "evaluation").rglob("expert.jsonl"):
        shutil.copy(path.with_name("random.jsonl"), path)
    panels = {stored.column: stored.results for stored in stored_panels(Run.open(run_folder))}
    capsys.readouterr()
    assert cli.main(["compare", run_folder, "--against", str(other), "--markdown"]) == 0
    rates, others, differences = read_tables(capsys.readouterr().out)
    for column, results in panels.items():
        assert rates["expert"][column] == format_rate(results["expert"].rate)
        assert others["expert"][column] == format_rate(results["random"].rate)
        difference = np.mean(np.subtract(results["expert"].outcomes, results["random"].outcomes))
        assert differences["expert"][column].startswith(f"{difference:+.2f} [")
        assert differences["random"][column] == "+0.00 [+0.00, +0.00]"


def test_report_prints_where_it_is(run_folder: str, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert cli.main(["report", run_folder]) == 0
    assert capsys.readouterr().out == "done/report.html\n"


def test_envs_lists_what_is_installed(capsys: pytest.CaptureFixture):
    assert cli.main(["envs"]) == 0
    shown = capsys.readouterr().out
    assert "ClevrRobot-v0" in shown
    assert "40 discrete" in shown


def test_envs_lists_the_others_beside_one_that_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "half_done.py").write_text("NAMES = [][0]\n")
    plugins = {"HalfDone-v0": "half_done", "Gone-v0": "no_such_module", "ClevrRobot-v0": "envs"}
    entries = [EntryPoint(env_id, module, environments.GROUP) for env_id, module in plugins.items()]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(environments, "entry_points", lambda group: entries)
    assert cli.main(["envs"]) == 0
    shown = capsys.readouterr().out
    assert "40 discrete" in shown
    assert "HalfDone-v0 cannot be used: IndexError: list index out of range" in shown
    assert "Gone-v0 cannot be used: environment no_such_module:Gone-v0 cannot be made: " in shown
    assert len(shown.splitlines()) == 9


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Discrete(7), "7 discrete"),
        (spaces.MultiDiscrete([3, 5]), "3 x 5 discrete"),
        (spaces.Box(-1, 1, (4,)), "4 continuous"),
        (AnyText(), "free text"),
    ],
)
def test_action_spaces_in_a_word(space: spaces.Space, kind: str):
    assert environments.action_kind(space) == kind


def test_envs_check_says_yes_and_how_fast_or_what_is_wrong(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("envs.check_speed.measure_speed", lambda env: Speed(2500.4, 1000))
    assert cli.main(["envs", "check", "ClevrRobot-v0"]) == 0
    said = "ClevrRobot-v0: ok\n2,500 steps/s and 1,000 resets/s in one process, with texts, under random actions\n"
    assert capsys.readouterr().out == said
    monkeypatch.setattr("envs.clevr_robot.task.ClevrRobotTask.describe", lambda self, state: "")
    assert cli.main(["envs", "check", "ClevrRobot-v0"]) == 1
    assert "describe" in capsys.readouterr().out


@NEEDS_ENCODER
def test_encoder_measures_confusion(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llm_agents.cli.encoder.NUM_GOALS", 10)
    assert cli.main(["encoder"]) == 0
    shown = capsys.readouterr().out
    assert "Another goal can be nearer than another phrasing of the same goal" in shown


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture):
    code = cli.main(["doctor"])
    shown = capsys.readouterr().out
    assert code == int("missing" in shown)
    assert "MuJoCo" in shown
