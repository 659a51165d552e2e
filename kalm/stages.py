"""The stages of the KALM recipe: each is done once, and what it makes is in the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from envs.episodes import Episode
from envs.goals import Split
from envs.language import LanguageEnv, LanguageTask
from kalm.action_space import ActionSpace, action_space
from kalm.dynamics import Dynamics, LMDynamics, MLPDynamics, transition_batch
from kalm.generation import generate
from kalm.grounding import Grounding, GroundingData
from kalm.judging import start_states
from kalm.offline import ALGORITHMS, OfflineAlgorithm, OfflineData, PolicyAgent
from kalm.planning import search
from kalm.settings import KalmConfig, Method
from kalm.specs import imagination_specs, training_specs
from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import StateNormalizer, TrajectoryLM
from kalm.verification import Verdict, first_accepted, quality_gate, replay, verdict_row, verify
from llm_agents.agents.scripted import ExpertAgent, NoisyAgent, RandomAgent
from llm_agents.evaluation.evaluate import evaluate_agent, make_panels
from llm_agents.models.loading import load_language_model
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.models.tiny import TinySettings
from llm_agents.registry.environments import make_environment
from llm_agents.rollouts.collect import collect
from llm_agents.rollouts.panels import Column, Panel, make_panel
from llm_agents.rollouts.rollout import AnyAgent
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.devices import describe_device, find_device, to_device
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import parallel_map
from llm_agents.runtime.progress import progress_bar, watch_progress
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded, stream, stream_seed
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import fit

UNSEEN: tuple[Split, ...] = ("rephrase", "easy", "hard")
COLUMNS = (
    Column("train", "train"),
    Column("rephrase", "rephrase", "given"),
    Column("rephrase (new words)", "rephrase", "new"),
    Column("easy", "easy"),
    Column("hard", "hard"),
)
TOLERANCE = 0.02  # how much success on training goals a larger share of imagined data may cost


class Stages:
    """The stages of a run, and what they share. Each is done once; what it makes is in the run's folder."""

    def __init__(self, config: KalmConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.make_env = partial(make_environment, config.environment)

    @cached_property
    def task(self) -> LanguageTask:
        return self._probe.task

    @cached_property
    def actions(self) -> ActionSpace:
        return action_space(self._probe.action_space, self.config.action_bins)

    @cached_property
    def _probe(self) -> LanguageEnv:
        return self.make_env()

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder, with the features of all texts of the run in its cache once they are computed."""
        encoder = TextEncoder.load(self.config.text_encoder)
        path = self.run.folder / "text_features.safetensors"
        if path.exists():
            encoder.load_cache(path)
        return encoder

    @cached_property
    def real(self) -> Trajectories:
        """The expert's rollouts for training goals."""
        return Trajectories.of(self.run.episodes("real").read())

    @cached_property
    def transitions(self) -> Transitions:
        """Every transition seen in the environment for training: the expert's and those of random rollouts."""
        random = self.run.episodes("random_rollouts").read()
        return Transitions.of(self.real, Trajectories.of(random)) if random else Transitions.of(self.real)

    @cached_property
    def normalizer(self) -> StateNormalizer:
        return StateNormalizer.of(self.transitions.states, self.transitions.next_states)

    @property
    def imagined_methods(self) -> list[Method]:
        """The ways in which something was imagined that passed verification."""
        return [method for method in self.config.imagination.methods if self.run.episodes(f"imagined_{method}").files]

    def check(self) -> None:
        """See whether the environment's actions are of a kind that can be learned, and whether there are cases enough
        for each kind of goal, before anything is collected.

        Raises:
            UserError: they are not, or there are not.
        """
        ALGORITHMS[self.config.policy.algorithm].check(self.actions)
        for split in UNSEEN:
            self._cases(split)

    def panels(self) -> dict[str, Panel]:
        """What the run's agents are judged on at the end, by column."""
        settings = self.config.evaluation
        return make_panels(self.task, COLUMNS, settings.num_episodes, settings.panel_seed)

    def print_plan(self) -> None:
        """What will be done, in the words of sizes."""
        config, imagination = self.config, self.config.imagination
        num_methods = len(imagination.methods)
        unseen = imagination.num_rephrase + imagination.num_easy + imagination.num_hard
        print(
            f"plan: collect {config.data.num_rollouts} rollouts and {config.data.num_random_rollouts} random ones; "
            f"ground {config.language_model.name} on {describe_device(find_device(config.language_model.device))} for "
            f"{config.grounding.num_steps} steps of {config.grounding.batch_size} sequences; imagine {unseen} episodes "
            f"by {num_methods} methods; train {num_methods + 2} policies ({config.policy.algorithm}) for "
            f"{config.policy.num_steps} steps of {config.policy.batch_size} transitions; judge {num_methods + 5} "
            f"agents on 5 panels of {config.evaluation.num_episodes} episodes; {config.num_workers} processes, seed "
            f"{config.seed}"
        )

    def collect(self) -> None:
        """Rollouts for training goals, the expert's and random ones; then the features of all instructions."""
        data, seed = self.config.data, self.config.seed
        self._collect(
            "real", training_specs(self.task, "real", data.num_rollouts, seed), ExpertMaker(data.random_fraction)
        )
        if data.num_random_rollouts:
            self._collect(
                "random_rollouts",
                training_specs(self.task, "random_rollouts", data.num_random_rollouts, seed),
                _make_random,
            )
        oracle = [spec for split in UNSEEN for spec in self._cases(split)]
        self._collect("oracle", oracle, ExpertMaker(0.0))
        self._encode_texts()

    def learn_models(self) -> None:
        """Ground the language model; beside it train what needs no imagination."""
        names = ["grounding", "policy_real"]
        if "search_mlp" in self.config.imagination.methods:
            names.append("mlp_dynamics")
        self._in_processes("training models", names)

    def imagine(self) -> None:
        """Imagine in every way; stop if the environment does not confirm it.

        Of a way that nothing passed verification there will be no policy.

        Raises:
            UserError: a way fails the quality gate, or nothing passed in any way.
        """
        methods = self.config.imagination.methods
        arguments = [(str(self.run.folder), method) for method in methods]
        with progress_bar("imagining", len(methods)) as advance:
            for _ in parallel_map(_imagine, arguments, self.config.num_workers):
                advance()
        for method in methods:
            row = self.run.get_or_compute(f"gate_{method}", dict)["train"]
            print(
                f"{method}: {row['replay_success']:.0%} of {row['replayed']:.0f} rollouts imagined for training goals "
                f"succeed in the environment; mean state error {row['state_error']:.3f}"
            )
            quality_gate(method, row["replay_success"], self.config.verification)
            if method not in self.imagined_methods:
                print(
                    f"{method}: nothing passed verification, no policy is trained from it: see verifier_{method}.json"
                )
        if methods and not self.imagined_methods:
            raise UserError("nothing that was imagined passed verification, in any way: see verifier_*.json")

    def train_policies(self) -> None:
        """All policies with added data; first those from which the share of imagined data is chosen."""
        deciding = [_policy_name(self._deciding_policy, fraction) for fraction in self.config.policy.imagined_fractions]
        if len(deciding) > 1:
            self._in_processes("choosing a share", deciding)
        added = [*self.imagined_methods, "oracle"]
        self._in_processes("training policies", [_policy_name(f"real+{a}", self.chosen_fraction()) for a in added])

    def train(self, name: str) -> None:
        """One training by the name of its checkpoint, in this process."""
        if name == "grounding":
            self._ground()
        elif name == "mlp_dynamics":
            self._train_mlp()
        else:
            self._train_policy(name)

    def _ground(self) -> None:
        grounding = self._make_grounding()
        settings = self.config.grounding
        data = GroundingData(self.real, self.transitions, settings, self.config.seed)
        held_out = to_device(data.held_out(), grounding.model.device)

        @torch.inference_mode()
        def evaluate() -> dict[str, float]:
            return {f"held_out_{name}": value for name, value in grounding.loss(held_out)[1].items()}

        fit(grounding, settings, data.batch, self.run, "grounding", evaluate, show_progress=False)

    def _train_mlp(self) -> None:
        settings = self.config.mlp_dynamics
        batch = partial(transition_batch, self.transitions, settings.batch_size, self.config.seed)
        fit(self._make_mlp(), settings, batch, self.run, "mlp_dynamics", show_progress=False)

    def _train_policy(self, name: str) -> None:
        """A policy from real data and what its name adds to them."""
        _, added, fraction = _parse_policy_name(name)
        extra = Trajectories.of(self.run.episodes(added).read()) if added else None
        settings = self.config.policy
        data = OfflineData(self.encoder, self.real, extra, fraction, settings.batch_size, self.config.seed)
        algorithm = self._make_policy()
        fit(algorithm, settings, data.batch, self.run, name, after_step=algorithm.after_step, show_progress=False)

    def imagine_by(self, method: Method) -> None:
        """Imagine in one way for every unseen split and keep what passes verification.

        Of ``lm_greedy`` rollouts all are kept, as published; of ``lm_sample`` one a case.
        """
        self.run.get_or_compute(f"gate_{method}", lambda: {"train": self._gate_row(method)})
        self.run.get_or_compute(f"verifier_{method}", lambda: self._imagine_unseen(method))

    def _imagine_unseen(self, method: Method) -> dict[str, dict[str, float]]:
        """Store what passes verification, and return what verification says, by split."""
        accepted: list[Episode] = []
        table: dict[str, dict[str, float]] = {}
        for split in UNSEEN:
            episodes = self._imagine(method, self._cases(split))
            verdict = self._verify(method, episodes)
            table[split] = self._verdict_row(episodes, verdict)
            accepted += episodes if method == "lm_greedy" else first_accepted(episodes, verdict)
        store = self.run.episodes(f"imagined_{method}")
        if not store.files:  # or a run was killed between the two, and they are the same
            store.append(accepted)
        return table

    def chosen_fraction(self) -> float:
        """The share of imagined data in a batch: the largest that costs next to nothing on training goals."""
        fractions = self.config.policy.imagined_fractions
        if len(fractions) == 1:
            return fractions[0]
        return self.run.get_or_compute("imagined_fraction", self._choose_fraction)["chosen"]["fraction"]

    def load_language_model(self) -> TrajectoryLM:
        """The grounded language model."""
        grounding = self._make_grounding()
        load_weights(grounding, self.run, "grounding")
        return grounding.model

    def load_policy_agent(self, name: str, fraction: float) -> PolicyAgent:
        """A trained policy as an agent."""
        algorithm = self._make_policy()
        load_weights(algorithm, self.run, _policy_name(name, fraction))
        return PolicyAgent(algorithm, self.encoder, self.config.policy.temperature)

    def _collect(self, name: str, specs: list[EpisodeSpec], make_agent: Callable[[LanguageTask], AnyAgent]) -> None:
        collect(self.make_env, make_agent, specs, self.run.episodes(name), name, self.config.num_workers)

    def _cases(self, split: Split) -> list[EpisodeSpec]:
        count = getattr(self.config.imagination, f"num_{split}")
        return imagination_specs(self.task, split, count, self.config.seed)

    def _encode_texts(self) -> None:
        """Encode every instruction that will be read once, for all processes and later stages."""
        path = self.run.folder / "text_features.safetensors"
        if path.exists():
            return
        instructions = [episode.instruction for episode in self.real.episodes]
        instructions += [spec.instruction for split in UNSEEN for spec in self._cases(split)]
        instructions += [spec.instruction for panel in self.panels().values() for spec in panel.specs]
        texts = sorted(set(instructions))
        with progress_bar("encoding texts", len(texts)) as advance:
            for part in (texts[i : i + 512] for i in range(0, len(texts), 512)):
                self.encoder.encode(part)
                advance(len(part))
        self.encoder.save_cache(path)

    def _make_grounding(self) -> Grounding:
        """The untrained language model with its tasks; its weights depend on the seed alone."""
        corpus = [phrasing for goal in self.task.goals("train") for phrasing in goal.phrasings]
        with seeded(self.config.seed, "weights/trajectory_lm"):
            lm = load_language_model(self.config.language_model, corpus=corpus, encoder=self._tiny_encoder)
            model = TrajectoryLM(lm, self.actions, self._normalizer_or_shape())
        return Grounding(model, self.config.grounding)

    @property
    def _tiny_encoder(self) -> TextEncoder | None:
        """The encoder through which the language model reads, if it is the one that policies read through."""
        settings = self.config.language_model
        shared = isinstance(settings, TinySettings) and settings.encoder == self.config.text_encoder
        return self.encoder if shared else None

    def _make_mlp(self) -> MLPDynamics:
        with seeded(self.config.seed, "weights/mlp_dynamics"):
            return MLPDynamics(self.actions, self._normalizer_or_shape(), self.config.mlp_dynamics)

    def _make_policy(self) -> OfflineAlgorithm:
        algorithm = ALGORITHMS[self.config.policy.algorithm]
        with seeded(self.config.seed, "weights/policy"):
            return algorithm(self.encoder.dim, self._normalizer_or_shape(), self.actions, self.config.policy)

    def _normalizer_or_shape(self) -> StateNormalizer:
        """The scale measured on the data; without data, to load weights into, one of the same shape."""
        if self.run.episodes("real").files:
            return self.normalizer
        size = self._probe.state.shape[0]
        return StateNormalizer(*(torch.ones(size) for _ in range(3)))

    def _dynamics(self, method: Method) -> Dynamics:
        return self._mlp if method == "search_mlp" else LMDynamics(self._language_model)

    @cached_property
    def _language_model(self) -> TrajectoryLM:
        return self.load_language_model()

    @cached_property
    def _mlp(self) -> MLPDynamics:
        mlp = self._make_mlp()
        load_weights(mlp, self.run, "mlp_dynamics")
        return mlp

    def _imagine(self, method: Method, specs: list[EpisodeSpec]) -> list[Episode]:
        """One rollout a case; of ``lm_sample`` several."""
        config, seed = self.config, stream_seed(self.config.seed, "imagination/part", specs[0].seed)
        starts = start_states(self.make_env, specs)
        if method in ("search", "search_mlp"):
            dynamics = self._dynamics(method)
            return search(dynamics, self.task, self.actions, self._propose, specs, starts, config.search, seed)
        copies, temperature = 1, 0.0
        if method == "lm_sample":
            copies, temperature = config.generation.num_samples, config.generation.temperature
        return generate(
            self._language_model,
            self.task,
            specs * copies,
            np.tile(starts, (copies, 1)),
            config.generation,
            temperature,
            seed,
            piece_steps=config.grounding.max_steps,
        )

    @torch.inference_mode()
    def _propose(self, instructions: Sequence[str], states: Tensor) -> Tensor:
        model = self._language_model
        return model.first_action_logits(instructions, states.to(model.device))

    def _verify(self, method: Method, episodes: Sequence[Episode]) -> Verdict:
        return verify(episodes, self.task, self._dynamics(method), self.normalizer.step_std, self.config.verification)

    def _gate_row(self, method: Method) -> dict[str, float]:
        specs = training_specs(self.task, "gate", self.config.verification.num_replayed, self.config.seed)
        episodes = self._imagine(method, specs)
        return self._verdict_row(episodes, self._verify(method, episodes))

    def _verdict_row(self, episodes: Sequence[Episode], verdict: Verdict) -> dict[str, float]:
        """What verification says of imagined rollouts, and on a sample of them what the environment says."""
        rng = stream(self.config.seed, "kalm/replayed", episodes[0].seed)
        size = min(self.config.verification.num_replayed, len(episodes))
        sample = rng.choice(len(episodes), size, replace=False)
        return verdict_row(verdict, sample, replay(self.make_env, [episodes[index] for index in sample]))

    @property
    def _deciding_policy(self) -> str:
        """The policy from which the share is chosen: with search if there is one."""
        methods = self.imagined_methods
        return f"real+{'search' if 'search' in methods else (*methods, 'oracle')[0]}"

    def _choose_fraction(self) -> dict[str, dict[str, float]]:
        panel = make_panel(self.task, "train", self.config.evaluation.num_validation, start_range="validation")
        rates = {}
        for fraction in self.config.policy.imagined_fractions:
            agent = self.load_policy_agent(self._deciding_policy, fraction)
            rates[fraction] = evaluate_agent(agent, self.make_env, panel).rate.value
        chosen = max(fraction for fraction, rate in rates.items() if rate >= max(rates.values()) - TOLERANCE)
        table = {str(fraction): {"fraction": fraction, "train_success": rate} for fraction, rate in rates.items()}
        return {**table, "chosen": {"fraction": chosen, "train_success": rates[chosen]}}

    def _in_processes(self, title: str, names: list[str]) -> None:
        """Several trainings at a time, each in a process of its own."""
        names = [name for name in names if not self.run.has_finished(name)]
        settings = {"grounding": self.config.grounding, "mlp_dynamics": self.config.mlp_dynamics}
        steps = {name: settings.get(name, self.config.policy).num_steps for name in names}
        arguments = [(str(self.run.folder), name) for name in names]
        with watch_progress(title, self.run, steps):
            for _ in parallel_map(_train, arguments, self.config.num_workers):
                pass


class ExpertMaker:
    """Makes the expert of a task, as something that can be sent to another process."""

    def __init__(self, random_fraction: float) -> None:
        self.random_fraction = random_fraction

    def __call__(self, task: LanguageTask) -> AnyAgent:
        return NoisyAgent(ExpertAgent(task), self.random_fraction) if self.random_fraction else ExpertAgent(task)


def _make_random(task: LanguageTask) -> AnyAgent:
    return RandomAgent()


def _train(folder: str, name: str) -> None:
    _open(folder).train(name)


def _imagine(folder: str, method: Method) -> None:
    _open(folder).imagine_by(method)


def _open(folder: str) -> Stages:
    run = Run.open(folder)
    return Stages(KalmConfig.model_validate(run.config), run)


def _policy_name(name: str, fraction: float) -> str:
    """The checkpoint of a policy: ``policy_real`` or such as ``policy_real+search@0.5``."""
    return f"policy_{name}" if name == "real" else f"policy_{name}@{fraction:g}"


def _parse_policy_name(name: str) -> tuple[str, str, float]:
    """The agent, the episode store it adds ("" for none) and the share of a policy's checkpoint."""
    agent, _, fraction = name.removeprefix("policy_").partition("@")
    added = agent.removeprefix("real").removeprefix("+")
    store = added if added in ("", "oracle") else f"imagined_{added}"
    return agent, store, float(fraction or 0.0)
