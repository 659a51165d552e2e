"""The stages of the KALM recipe: each is done once, and what it makes is in the run's folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from envs.episodes import Episode
from envs.language import LanguageTask
from kalm.dynamics import transition_batch
from kalm.grounding import GroundingData
from kalm.policies import ORACLE, PolicySpec, chosen_fraction, deciding_specs, policy_specs, train_policy
from kalm.settings import Method
from kalm.specs import training_specs
from kalm.verification import first_accepted, quality_gate
from kalm.workspace import COLUMNS, GROUNDING, MLP_DYNAMICS, UNSEEN, Workspace
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.evaluation.evaluate import make_panels
from llm_agents.recipes.base import Stage
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.devices import to_device
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import parallel_map
from llm_agents.runtime.progress import progress_bar, watch_progress
from llm_agents.training.loop import fit

TEXTS_AT_ONCE = 512


class KalmStage(Stage, ABC):
    """A stage of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace


class Collect(KalmStage):
    """Play what is learned from, then compute the features of all instructions that will be read."""

    purpose = "Collect: the expert plays training goals (real data), and unseen ones as an upper bound (oracle)."

    def done(self) -> bool:
        return self.workspace.features_path.exists()

    def run(self) -> None:
        workspace, data = self.workspace, self.workspace.config.data
        self._play("real", partial(_make_expert, data.random_fraction), self._training("real", data.num_rollouts))
        if data.num_random_rollouts:
            self._play("random_rollouts", _make_random, self._training("random_rollouts", data.num_random_rollouts))
        unseen = [spec for split in UNSEEN for spec in workspace.unseen_specs(split)]
        self._play("oracle", partial(_make_expert, 0.0), unseen)
        self._encode_texts(unseen)

    def _training(self, name: str, count: int) -> list[EpisodeSpec]:
        return training_specs(self.workspace.task, name, count, self.workspace.config.seed)

    def _play(self, name: str, make_agent: Callable[[LanguageTask], AnyAgent], specs: list[EpisodeSpec]) -> None:
        workspace = self.workspace
        collect(workspace.make_env, make_agent, specs, workspace.run.episodes(name), name, workspace.config)

    def _encode_texts(self, unseen: Sequence[EpisodeSpec]) -> None:
        """Encode every instruction that will be read once, for all processes and later stages."""
        workspace, settings = self.workspace, self.workspace.config.evaluation
        panels = make_panels(workspace.task, COLUMNS, settings.num_episodes, settings.panel_seed)
        judged = [spec for panel in panels.values() for spec in panel.specs]
        seen = [episode.instruction for episode in workspace.real.episodes]
        texts = sorted({*seen, *(spec.instruction for spec in (*unseen, *judged))})
        with progress_bar("encoding texts", len(texts)) as advance:
            for part in (texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)):
                workspace.encoder.encode(part)
                advance(len(part))
        workspace.encoder.save_cache(workspace.features_path)


@dataclass(frozen=True)
class Training(ABC):
    """One training, which can be done in any process.

    Attributes:
        folder: of the run.
    """

    folder: Path

    @property
    @abstractmethod
    def checkpoint(self) -> str:
        """The name of the training and of its checkpoint."""

    @abstractmethod
    def num_steps(self, workspace: Workspace) -> int:
        """Return how many optimizer steps it takes."""

    @abstractmethod
    def train(self, workspace: Workspace) -> None:
        """Train, or go on."""


@dataclass(frozen=True)
class GroundingTraining(Training):
    """Ground the language model in the rollouts."""

    checkpoint = GROUNDING

    def num_steps(self, workspace: Workspace) -> int:
        return workspace.config.grounding.num_steps

    def train(self, workspace: Workspace) -> None:
        grounding, settings = workspace.new_grounding(), workspace.config.grounding
        data = GroundingData(workspace.real, workspace.transitions, settings, workspace.config.seed)
        held_out = to_device(data.held_out(), grounding.model.device)

        @torch.inference_mode()
        def evaluate() -> dict[str, float]:
            return {f"held_out/{name}": value for name, value in grounding.loss(held_out)[1].items()}

        fit(grounding, settings, data.batch, workspace.run, GROUNDING, evaluate, show_progress=False)


@dataclass(frozen=True)
class MLPDynamicsTraining(Training):
    """Train the dynamics of the ablation."""

    checkpoint = MLP_DYNAMICS

    def num_steps(self, workspace: Workspace) -> int:
        return workspace.config.mlp_dynamics.num_steps

    def train(self, workspace: Workspace) -> None:
        settings = workspace.config.mlp_dynamics
        batch = partial(transition_batch, workspace.transitions, settings.batch_size, workspace.config.seed)
        fit(workspace.new_mlp_dynamics(), settings, batch, workspace.run, MLP_DYNAMICS, show_progress=False)


@dataclass(frozen=True)
class PolicyTraining(Training):
    """Train a policy by offline RL."""

    spec: PolicySpec

    @property
    def checkpoint(self) -> str:
        return self.spec.checkpoint

    def num_steps(self, workspace: Workspace) -> int:
        return workspace.config.policy.num_steps

    def train(self, workspace: Workspace) -> None:
        train_policy(workspace, self.spec)


class TrainingsStage(KalmStage):
    """Several trainings at a time, each in a process of its own.

    Attributes:
        title: of the progress bar.
    """

    title: str

    @abstractmethod
    def trainings(self) -> list[Training]:
        """Return what is trained."""

    def done(self) -> bool:
        return not self._left()

    def run(self) -> None:
        workspace, left = self.workspace, self._left()
        steps = {training.checkpoint: training.num_steps(workspace) for training in left}
        jobs = [(training,) for training in left]
        with watch_progress(self.title, workspace.run, steps):
            for _ in parallel_map(_train, jobs, workspace.config, workspace.run.folder):
                pass

    def _left(self) -> list[Training]:
        has_finished = self.workspace.run.has_finished
        return [training for training in self.trainings() if not has_finished(training.checkpoint)]

    def _policies(self, specs: Sequence[PolicySpec]) -> list[Training]:
        return [PolicyTraining(self.workspace.run.folder, spec) for spec in specs]


class LearnModels(TrainingsStage):
    """Ground the language model, and train what needs no imagination at the same time."""

    purpose = "Ground: the language model learns what actions do and what rollouts for a goal look like."
    title = "training models"

    def trainings(self) -> list[Training]:
        folder, config = self.workspace.run.folder, self.workspace.config
        mlp = [MLPDynamicsTraining(folder)] if "search_mlp" in config.imagination.methods else []
        fractions = config.policy.imagined_fractions
        oracle = [PolicySpec(ORACLE, *fractions)] if len(fractions) == 1 else []  # there is nothing to be chosen
        return [GroundingTraining(folder), *self._policies([PolicySpec(), *oracle]), *mlp]


class Imagine(KalmStage):
    """Imagine by every method for every unseen split, and keep what passes verification."""

    purpose = "Imagine: rollouts for goals that nobody has shown, and the environment's predicates verify them."

    def done(self) -> bool:
        methods = self.workspace.config.imagination.methods
        return all((self.workspace.run.folder / f"verifier_{method}.json").exists() for method in methods)

    def run(self) -> None:
        workspace, methods = self.workspace, self.workspace.config.imagination.methods
        jobs = [(workspace.run.folder, method) for method in methods]
        with progress_bar("imagining", len(methods)) as advance:
            for _ in parallel_map(imagine_by, jobs, workspace.config, workspace.run.folder):
                advance()


class QualityGate(KalmStage):
    """Stop if the environment does not confirm what was imagined for training goals. Looked at in every run.

    By a method that nothing passed verification for there will be no policy.
    """

    purpose = "Check: rollouts imagined for training goals are replayed in the environment."

    def done(self) -> bool:
        return False

    def run(self) -> None:
        workspace, methods = self.workspace, self.workspace.config.imagination.methods
        for method in methods:
            row = workspace.run.get_or_compute(f"gate_{method}", dict)["train"]
            print(
                f"{method}: {row['replay_success']:.0%} of {row['replayed']:.0f} rollouts imagined for training goals "
                f"succeed in the environment; mean state error {row['state_error']:.3f}"
            )
            quality_gate(method, row["replay_success"], workspace.config.verification)
            if method not in workspace.imagined_methods:
                print(f"{method}: nothing passed verification, no policy learns from it: see verifier_{method}.json")
        if methods and not workspace.imagined_methods:
            raise UserError("nothing that was imagined passed verification, by any method: see verifier_*.json")


class ChooseFraction(TrainingsStage):
    """Train the policies from which the fraction of imagined data is chosen."""

    purpose = "Choose how much of a batch is imagined: on training goals, from starts that are not judged on."
    title = "choosing a fraction"

    def trainings(self) -> list[Training]:
        deciding = deciding_specs(self.workspace)
        return self._policies(deciding) if len(deciding) > 1 else []


class TrainPolicies(TrainingsStage):
    """Train a policy from real and imagined data for each method, and one from the oracle's."""

    purpose = "Train policies by offline RL: on real data and what each method imagined."
    title = "training policies"

    def trainings(self) -> list[Training]:
        chosen_fraction(self.workspace)
        return self._policies(policy_specs(self.workspace)[1:])


def imagine_by(folder: Path, method: Method) -> None:
    """Imagine by one method, in any process.

    Of ``lm_greedy`` rollouts all are kept, as published; of ``lm_sample`` one for each spec.
    """
    workspace = Workspace.open(folder)
    run = workspace.run
    run.get_or_compute(f"gate_{method}", lambda: {"train": _gate_row(workspace, method)})
    run.get_or_compute(f"verifier_{method}", lambda: _imagine_unseen(workspace, method))


def _gate_row(workspace: Workspace, method: Method) -> dict[str, float]:
    """What comes of imagining for training goals."""
    config = workspace.config
    specs = training_specs(workspace.task, "gate", config.verification.num_replayed, config.seed)
    episodes = workspace.imagine(method, specs)
    return workspace.verdict_row(episodes, workspace.verify(method, episodes))


def _imagine_unseen(workspace: Workspace, method: Method) -> Mapping[str, dict[str, float]]:
    """Store what passes verification; return what verification says, by split."""
    accepted: list[Episode] = []
    table: dict[str, dict[str, float]] = {}
    for split in UNSEEN:
        episodes = workspace.imagine(method, workspace.unseen_specs(split))
        verdict = workspace.verify(method, episodes)
        table[split] = workspace.verdict_row(episodes, verdict)
        accepted += episodes if method == "lm_greedy" else first_accepted(episodes, verdict)
    store = workspace.run.episodes(f"imagined_{method}")
    if not store.files:  # or a run was killed between the two, and they are the same
        store.append(accepted)
    return table


def _train(training: Training) -> None:
    training.train(Workspace.open(training.folder))


def _make_expert(random_fraction: float, task: LanguageTask) -> AnyAgent:
    return NoisyAgent(ExpertAgent(task), random_fraction) if random_fraction else ExpertAgent(task)


def _make_random(task: LanguageTask) -> AnyAgent:
    return RandomAgent()
