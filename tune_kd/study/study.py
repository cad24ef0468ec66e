"""A study: its folder, manifest and proposals, and what its rows say.

Everything that a search remembers is derived from disk: proposals (written before their trials
start), epochs' rows (committed by workers) and verdicts (written by the driver before a trial hears
of a stop). Resuming is opening the folder again. Rows become Optuna trials here, and nowhere else.
"""

import dataclasses
import json
from collections import Counter

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_kd import metrics, objectives
from tune_kd.metrics import METRICS, test_twin
from tune_kd.recipe import Recipe, to_json, training_stages
from tune_kd.study import manifest, results, selection
from tune_kd.study.proposal import Proposal, dump, parse
from tune_kd.study.results import SCHEMA_VERSION, Row, now
from tune_kd.study.storage import Storage
from tune_kd.study.trial_names import measure_trial

STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
MERGE_AT = 64  # verdicts in files of their own before they are merged


class Study:
    """A study that exists on disk, read once; the one driver that has it open writes it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.manifest = manifest.read(storage)
        self.name = self.manifest.study
        self.metric = self.manifest.metric
        self.test_metric = test_twin(self.metric)
        self.objectives = list(self.manifest.objectives)
        self.constraints = list(self.manifest.constraints)
        self._schema = results.trial_schema(self.manifest.config_types)
        self.proposals: dict[str, Proposal] = {}
        for name in storage.names("proposals", ".json"):
            proposal = parse(storage.read(f"proposals/{name}"))
            self.proposals[proposal.trial] = proposal
        self.outcomes: dict[str, list[Row]] = {}
        for row in results.read_trials(storage):
            self.outcomes.setdefault(row["trial"], []).append(row)
        self.rows: dict[str, list[Row]] = results.read_epochs(storage)
        self.judged_epochs: Counter[str] = Counter()  # trial -> epochs that were judged
        for trial in self.proposals:
            epochs = len(self.rows.get(trial, []))
            outcome = self.outcomes.get(trial)
            if not outcome:
                # a row that its trial went on from was judged; the last one may not be
                self.judged_epochs[trial] = max(epochs - 1, 0)
            elif outcome[-1]["status"] == "stopped":
                self.judged_epochs[trial] = outcome[-1]["epochs"]
            else:
                self.judged_epochs[trial] = epochs
        self._optuna: dict[str, FrozenTrial] = {}
        self._unmerged = 0

    # ------------------------------------------------------------ proposals

    def add(self, proposal: Proposal) -> Proposal:
        """Put a proposal on disk; from now on it is run until it has a verdict."""
        proposal = dataclasses.replace(proposal, proposed=now())
        self.storage.write(f"proposals/{proposal.trial}.json", dump(proposal).encode())
        self.proposals[proposal.trial] = proposal
        return proposal

    def of(
        self, phase: str, method: str | None = None, *, repeat: int | None = None
    ) -> list[Proposal]:
        """Proposals of a phase (of a method, of a repeat) in the order of repeats and numbers."""
        proposals = [
            p
            for p in self.proposals.values()
            if p.phase == phase and method in (None, p.method) and repeat in (None, p.repeat)
        ]
        return sorted(proposals, key=lambda p: (p.repeat, p.number, p.method, p.trial))

    @property
    def repeats(self) -> int:
        """How many independent searches there are: as planned at first, or as begun since."""
        counts = (p.repeat + 1 for p in self.proposals.values() if p.phase == "search")
        return max(self.manifest.repeats, *counts, 0)

    def open_trials(self, phase: str) -> list[Proposal]:
        """Proposals of a phase that have no verdict yet."""
        return [p for p in self.of(phase) if p.trial not in self.outcomes]

    # ------------------------------------------------------------ rows and verdicts

    def on_report(self, row: Row) -> None:
        """Add a row that a worker has committed; one it repeats changes nothing."""
        trial, rows = row["trial"], self.rows.setdefault(row["trial"], [])
        if row["step"] > len(rows) + 1:  # a killed search's worker ended one more epoch
            self.rows[trial] = rows = results.read_epochs_of(self.storage, trial)
        if row["step"] == len(rows) + 1 or (row["step"] == 0 and not rows):
            rows.append(row)

    def score(self, row: Row) -> float | None:
        """Return what an epoch is judged by; None where it was not measured or is not finite."""
        return metrics.number(row, self.metric)

    def values(self, row: Row) -> list[float] | None:
        """Return what a finished trial reached in each objective; None where one is not known."""
        row = self._fill_measurements(row)
        values = [metrics.number(row, name) for name in self.objectives]
        numbers = [value for value in values if value is not None]
        return numbers if len(numbers) == len(values) else None

    def _fill_measurements(self, row: Row) -> Row:
        """Return a trial's row with what was measured once of the plain student, where it has that architecture."""
        if self.proposals[row["trial"]].recipe.compresses:
            return row
        plain = self.outcomes.get(measure_trial("student"), [{}])[-1]
        return row | {k: plain.get(k) for k in METRICS if row.get(k) is None}

    @property
    def directions(self) -> list[str]:
        """Optuna's direction of each objective."""
        better = [METRICS[name].higher_is_better for name in self.objectives]
        return ["maximize" if higher else "minimize" for higher in better]

    def end(self, trial: str, status: str, reason: str = "") -> None:
        """Write the verdict, unless there is one; then the checkpoints are needed no more."""
        if trial in self.outcomes:
            return
        proposal = self.proposals[trial]
        rows = self.rows.get(trial, [])
        if status == "stopped":
            rows = rows[: self.judged_epochs[trial]]
        outcome = self._verdict_rows(proposal, rows, status, reason)
        self.write_outcome(trial, outcome)
        self.storage.remove_folder(f"checkpoints/{trial}")
        if proposal.phase == "search":
            self._keep_best_student(proposal.method)

    def write_outcome(self, trial: str, rows: list[Row]) -> None:
        """Verdict rows, on disk and in memory."""
        self.storage.write(f"trials/{trial}.parquet", results.encode(rows, self._schema))
        self.outcomes[trial] = rows
        self._optuna.pop(trial, None)

    def _verdict_rows(
        self, proposal: Proposal, rows: list[Row], status: str, reason: str
    ) -> list[Row]:
        """One row a stage that was reached, the last with the verdict, the others finished."""
        stages = sorted({row["stage"] for row in rows}) or [0]
        outcome = []
        for stage in stages:
            within = [row for row in rows if row["stage"] == stage]
            last = within[-1] if within else {}
            row = self.describe(proposal, stage=stage)
            columns = (*METRICS, *results.TEST_ARRAYS)
            row |= {k: last.get(k) for k in columns if last.get(k) is not None}
            row |= {
                "stage": stage,
                "stage_name": last.get("stage_name", ""),
                "status": status if stage == stages[-1] else "finished",
                "reason": reason if stage == stages[-1] else "",
                "epochs": sum(r["epoch"] > 0 for r in rows if r["stage"] <= stage),
                "seconds": sum(r["seconds"] for r in rows if r["stage"] <= stage),
                "attempts": len({r["attempt"] for r in rows}),
                "device": last.get("device", ""),
                "host": last.get("host", ""),
                "ended": now(),
            }
            outcome.append(row)
        return outcome

    def describe(self, proposal: Proposal, *, stage: int) -> Row:
        """Return the columns of the row of a trial's stage that are known before it starts."""
        config = {f"config.{k}": v for k, v in proposal.config.items()}
        for name, value in config.items():  # a choice of several kinds has a column of text
            if not isinstance(value, str) and name in self._schema.names:
                text = self._schema.field(name).type == results.TEXT
                config[name] = json.dumps(value) if text else value
        return {
            "schema": SCHEMA_VERSION,
            "study": self.name,
            "space": self.manifest.space,
            "family": self.manifest.family,
            "phase": proposal.phase,
            "method": proposal.method,
            "repeat": proposal.repeat,
            "trial": proposal.trial,
            "number": proposal.number,
            "seed": proposal.seed,
            "origin": proposal.origin,
            "source": proposal.source,
            **_canonical(proposal.recipe, stage),
            "versions": json.dumps(self.manifest.versions, sort_keys=True),
            "commit": self.manifest.commit,
            "fingerprint": proposal.recipe_id,
            "teacher_model": proposal.recipe.teacher_model,
            "recipe": to_json(proposal.recipe),
            "started": proposal.proposed,
            **{k: v for k, v in config.items() if k in self._schema.names},
        }

    def ranking(self, method: str) -> list[Row]:
        """Return the finished search trials of a method, best first."""
        return results.rank_trials(
            self.all_rows, method, metric=self.metric, constraints=self.constraints
        )

    def winners(self, method: str) -> dict[int, Row]:
        """Return the finished search trial that each repeat of a method chose on validation."""
        return selection.winners(
            self.all_rows, method, metric=self.metric, constraints=self.constraints
        )

    def recommendation(self, method: str) -> Row | None:
        """Return the search trial that a method recommends."""
        return selection.recommend(
            self.all_rows, method, metric=self.metric, constraints=self.constraints
        )

    def best(self, method: str) -> Row | None:
        """Return the first of `ranking`, None where no trial has finished."""
        return next(iter(self.ranking(method)), None)

    def front(self, method: str) -> list[Row]:
        """Return a method's finished search trials that no other beats in all objectives."""
        limits = [objectives.parse(text) for text in self.constraints]
        candidates = [(row, self._fill_measurements(row)) for row in self.ranking(method)]
        allowed = [pair for pair in candidates if not objectives.violations(pair[1], limits)]
        indices = objectives.front([values for _, values in allowed], self.objectives)
        return [allowed[index][0] for index in indices]

    def _keep_best_student(self, method: str) -> None:
        several = len(self.objectives) > 1
        rows = [*self.winners(method).values(), *(self.front(method) if several else [])]
        names = {row["trial"] for row in rows}
        for proposal in self.of("search", method):
            if proposal.trial in self.outcomes and proposal.trial not in names:
                self.storage.remove(f"students/{proposal.trial}.safetensors")

    @property
    def all_rows(self) -> list[Row]:
        """The verdict rows of all trials."""
        return [row for outcome in self.outcomes.values() for row in outcome]

    def counts(self, phase: str) -> Counter[str]:
        """How many trials of a phase are finished, stopped and failed."""
        return Counter(v[-1]["status"] for v in self.outcomes.values() if v[-1]["phase"] == phase)

    # ------------------------------------------------------------ few files

    def merge(self) -> None:
        """One file of verdicts and one of their epochs."""
        names = [n for n in self.storage.names("trials", ".parquet") if self._is_over(n)]
        if len(names) > 1:
            rows = [row for outcome in self.outcomes.values() for row in outcome]
            results.merge(self.storage, "trials", rows, schema=self._schema, replaces=names)
        names = [n for n in self.storage.names("epochs", ".parquet") if self._is_over(n)]
        if len(names) > 1:
            over = [t for t in self.outcomes if t in self.rows]
            rows = [r for t in over for r in self.rows[t][: self._count_rows(t)]]
            schema = results.epoch_schema()
            results.merge(self.storage, "epochs", rows, schema=schema, replaces=names)

    def _count_rows(self, trial: str) -> int:
        """How many of an ended trial's rows count: of a stopped one those before its verdict."""
        last = self.outcomes[trial][-1]
        return int(last["epochs"]) if last["status"] == "stopped" else len(self.rows[trial])

    def merge_now_and_then(self) -> None:
        """Merge when MERGE_AT verdicts have come since the last time."""
        self._unmerged += 1
        if self._unmerged >= MERGE_AT:
            self.merge()
            self._unmerged = 0

    def _is_over(self, name: str) -> bool:
        """Return a file of ours whose trial has its verdict: `<trial>.parquet`, `<trial>.<attempt>.parquet`."""
        stem = name.removesuffix(".parquet")
        has_outcome = stem in self.outcomes or stem.rpartition(".")[0] in self.outcomes
        return has_outcome or stem.startswith("merged-")

    def clean(self) -> None:
        """Finish what a kill interrupted: merged files' originals, checkpoints of ended trials."""
        for folder in ("trials", "epochs", "proposals", "models", "students"):
            self.storage.remove_leftovers(folder)
        for folder in ("trials", "epochs"):
            results.delete_replaced(self.storage, folder)
        for trial in self.storage.names("checkpoints"):
            if trial in self.outcomes:
                self.storage.remove_folder(f"checkpoints/{trial}")

    # ------------------------------------------------------------ Optuna's view

    def distributions(self, method: str) -> dict[str, BaseDistribution]:
        """Return the sampled ranges of a method, as they were when the study began."""
        texts = self.manifest.methods[method].distributions
        return {name: json_to_distribution(text) for name, text in texts.items()}

    def optuna_trials(self, method: str, *, repeat: int) -> list[FrozenTrial]:
        """One search's trials by number: stopped as PRUNED, failed as FAIL, open as RUNNING."""
        distributions = self.distributions(method)
        trials = self.of("search", method, repeat=repeat)
        return [self._optuna_trial(proposal, distributions) for proposal in trials]

    def _optuna_trial(
        self, proposal: Proposal, distributions: dict[str, BaseDistribution]
    ) -> FrozenTrial:
        if proposal.trial not in self._optuna:
            outcome = self.outcomes.get(proposal.trial)
            status = outcome[-1]["status"] if outcome else None
            values = self.values(outcome[-1]) if outcome and status == "finished" else None
            state = STATES[status] if status else TrialState.RUNNING
            if status == "finished" and values is None:
                state = TrialState.FAIL
            scores = {r["step"]: self.score(r) for r in self.rows.get(proposal.trial, [])}
            # Optuna cannot compare what was stopped by several objectives
            has_steps = outcome and len(self.objectives) == 1
            attributes = dict(proposal.attributes)
            if outcome and self.constraints:
                excess = [objectives.parse(text).excess(outcome[-1]) for text in self.constraints]
                attributes["constraints"] = excess
            self._optuna[proposal.trial] = create_trial(
                state=state,
                values=values,
                params=dict(proposal.config),
                distributions=distributions,
                intermediate_values={
                    k: v for k, v in scores.items() if has_steps and v is not None
                },
                system_attrs=attributes,
            )
        return self._optuna[proposal.trial]


def _canonical(recipe: Recipe, stage: int) -> Row:
    """alpha, beta, gamma and temperature of the last training stage up to this one."""
    training = training_stages(recipe.stages[: stage + 1])
    if not training:
        return {}
    weights = training[-1].weights
    temperature = weights.temperature if weights.beta > 0 else None
    return {
        "alpha": weights.alpha,
        "beta": weights.beta,
        "gamma": weights.gamma,
        "temperature": temperature,
    }
