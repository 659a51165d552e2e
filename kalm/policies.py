"""The policies of a KALM run: what each is trained on, how it is trained, and how it acts."""

from __future__ import annotations

from dataclasses import dataclass

from kalm.offline import OfflineData, PolicyAgent
from kalm.settings import Method
from kalm.trajectories import Trajectories
from kalm.workspace import Workspace
from llm_agents.evaluation.evaluate import evaluate_agent
from llm_agents.rollouts.panels import make_panel
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import fit

ORACLE = "oracle"
TOLERANCE = 0.02  # how much success on training goals a larger fraction of imagined data may cost


@dataclass(frozen=True)
class PolicySpec:
    """Which policy: real data alone, or with what was added to them.

    Attributes:
        added: the method of imagination, ``oracle`` for the expert's rollouts for unseen goals, or None.
        fraction: of added data in a batch.
    """

    added: Method | str | None = None
    fraction: float = 0.0

    @property
    def name(self) -> str:
        """The agent's name in tables, such as ``real+search``."""
        return "real" if self.added is None else f"real+{self.added}"

    @property
    def checkpoint(self) -> str:
        """The name of its training and of its checkpoint, such as ``policy_real+search@0.5``."""
        return f"policy_{self.name}" if self.added is None else f"policy_{self.name}@{self.fraction:g}"

    @property
    def store(self) -> str | None:
        """The store of the episodes that are added."""
        return self.added if self.added in (None, ORACLE) else f"imagined_{self.added}"


def train_policy(workspace: Workspace, spec: PolicySpec) -> None:
    """Train a policy, or what is left of its training, in this process."""
    config, run = workspace.config, workspace.run
    added = None if spec.store is None else Trajectories.of(run.episodes(spec.store).read())
    data = OfflineData(workspace.encoder, workspace.real, added, spec.fraction, config.policy.batch_size, config.seed)
    algorithm = workspace.new_policy()
    fit(
        algorithm,
        config.policy,
        data.batch,
        run,
        spec.checkpoint,
        after_step=algorithm.after_step,
        show_progress=False,
    )


def load_policy_agent(workspace: Workspace, spec: PolicySpec) -> PolicyAgent:
    """Load a trained policy as an agent."""
    algorithm = workspace.new_policy()
    load_weights(algorithm, workspace.run, spec.checkpoint)
    return PolicyAgent(algorithm, workspace.encoder, workspace.config.policy.temperature)


def policy_specs(workspace: Workspace) -> list[PolicySpec]:
    """Return every policy that is judged, that of real data alone first, the oracle's last."""
    fraction = chosen_fraction(workspace)
    return [PolicySpec(), *(PolicySpec(added, fraction) for added in (*workspace.imagined_methods, ORACLE))]


def deciding_specs(workspace: Workspace) -> list[PolicySpec]:
    """Return the policies from which the fraction of imagined data is chosen: by search, if that was asked for."""
    methods = workspace.imagined_methods
    added = "search" if "search" in methods else (*methods, ORACLE)[0]
    return [PolicySpec(added, fraction) for fraction in workspace.config.policy.imagined_fractions]


def chosen_fraction(workspace: Workspace) -> float:
    """Return the fraction of imagined data in a batch: the largest that costs next to nothing on training goals.

    It is chosen on a panel of its own, on training goals; before it was chosen it is the first candidate.
    """
    fractions = workspace.config.policy.imagined_fractions
    deciding = deciding_specs(workspace)
    if len(fractions) == 1 or not all(workspace.run.has_finished(spec.checkpoint) for spec in deciding):
        return fractions[0]
    table = workspace.run.get_or_compute("imagined_fraction", lambda: _choose_fraction(workspace, deciding))
    return table["chosen"]["fraction"]


def _choose_fraction(workspace: Workspace, deciding: list[PolicySpec]) -> dict[str, dict[str, float]]:
    size = workspace.config.evaluation.num_validation
    panel = make_panel(workspace.task, "train", size, start_range="validation")
    rates = {
        spec.fraction: evaluate_agent(load_policy_agent(workspace, spec), workspace.make_env, panel).rate.value
        for spec in deciding
    }
    chosen = max(fraction for fraction, rate in rates.items() if rate >= max(rates.values()) - TOLERANCE)
    table = {str(fraction): {"fraction": fraction, "train_success": rate} for fraction, rate in rates.items()}
    return {**table, "chosen": {"fraction": chosen, "train_success": rates[chosen]}}
