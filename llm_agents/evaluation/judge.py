"""The end of a training run: its agents on their panels, and what the results say."""

from __future__ import annotations

from collections.abc import Mapping

from envs.language import LanguageTask
from llm_agents.console import wide_console
from llm_agents.evaluation.compare import Comparison, compare, tables
from llm_agents.evaluation.evaluate import evaluate_run, results_table
from llm_agents.evaluation.panel import Column, Panel
from llm_agents.recipes import Recipe
from llm_agents.run import Run


def judge(run: Run, recipe: Recipe, panels: Mapping[str, Panel], num_workers: int) -> Comparison:
    """Judge a run's agents on panels, and print the table, and what they are beside the recipe's references.

    Raises:
        UserError: a worker died.
    """
    results = evaluate_run(run, recipe, panels, recipe.agent_names(run), num_workers)
    comparison = compare([results], recipe.references(run))
    console = wide_console()
    console.print(results_table(results, panels))
    for table in tables(comparison, num_runs=1)[1:]:
        console.print(table)
    return comparison


def wording_columns(task: LanguageTask) -> list[Column]:
    """A column for each split; of ``rephrase``, one for each kind of wording if there are several."""
    kinds = sorted({task.wording_kind(words) for goal in task.goals("rephrase") for words in goal.phrasings})
    rephrased = [Column(f"rephrase: {kind}", "rephrase", kind=kind) for kind in kinds] if len(kinds) > 1 else []
    return [
        Column("train", "train"),
        *(rephrased or [Column("rephrase", "rephrase")]),
        Column("easy", "easy"),
        Column("hard", "hard"),
    ]
