"""`explain` and `score` on a store: the entry points of command line and pipelines."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from safesail.autointerp.calibrate import Calibration, Calibrator
from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.forecast import Forecast, forecast
from safesail.autointerp.intruder import IntruderReport, IntruderTest, intruder_origin
from safesail.autointerp.loop import Plan
from safesail.autointerp.origin import score_origin
from safesail.autointerp.pooled import make_walk
from safesail.autointerp.ranking import Chosen, FeatureChoice, choose, choose_sae, near_duplicates
from safesail.autointerp.report import RunReport
from safesail.domain.ids import FeatureId
from safesail.domain.records import Concept
from safesail.errors import BudgetExceededError, ConfigError, NotFoundError, SafeSailError
from safesail.llm.metered import MeteredClient
from safesail.store.concepts import read_concepts
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.explanations import authors_of, explained_features, read_explanation, record_all_tags
from safesail.store.intruders import IntruderScore
from safesail.store.registry import finish_run, start_run
from safesail.waiting import wait_for


def explain_store(
    store: Path, choice: FeatureChoice, chat: ChatSettings, config: AutointerpConfig, *, quiet: bool
) -> RunReport:
    """Explain and score features of an SAE in `store`.

    Raises:
        NotFoundError: no store, no selection or no harvest.
        SafeSailError: as `run_plan`.
    """
    _needs_store(store)
    with open_writer(store) as db:
        return _done(run_plan(db, make_plan(db, choice, config), chat, config, quiet=quiet))


def forecast_store(
    store: Path, choice: FeatureChoice, chat: ChatSettings, config: AutointerpConfig
) -> Forecast:
    """What `explain_store` would cost and bring; asks nobody and writes nothing.

    Raises:
        NotFoundError: no store, no selection or no harvest.
        ConfigError: a budget in dollars without prices.
    """
    _needs_store(store)
    with open_reader(store) as db:
        return forecast(db, make_plan(db, choice, config), chat, config)


def score_store(
    store: Path, choice: FeatureChoice, chat: ChatSettings, config: AutointerpConfig, *, quiet: bool
) -> RunReport:
    """Score the explanations that an SAE has in `store`, by another method or simulator.

    Raises:
        NotFoundError: no store.
        ConfigError: nothing is explained.
        SafeSailError: as `run_plan`.
    """
    _needs_store(store)
    with open_writer(store) as db:
        sae_id, features = _explained(db, choice, store)
        plan = Plan(sae_id, features, known={f: read_explanation(db, f, choice.authors) for f in features})
        return _done(run_plan(db, plan, chat, config, quiet=quiet))


def calibrate_store(
    store: Path,
    choice: FeatureChoice,
    chat: ChatSettings,
    config: AutointerpConfig,
    alone: str,
    *,
    quiet: bool,
) -> Calibration:
    """Score explanations that an SAE has in `store` both pooled and by `alone`, and compare.

    Raises:
        NotFoundError: no store.
        ConfigError: nothing is explained, or `alone` is not a method that rates parts of texts.
        LLMUnavailableError: the endpoint is dead; what was answered is kept.
        CacheMissError: replay was asked for and an answer is not in the cache.
    """
    if alone not in ("segment", "token"):
        raise ConfigError(f"--calibrate holds pooled scores against segment or token, not {alone}")
    _needs_store(store)
    with open_writer(store) as db:
        sae_id, features = _explained(db, choice, store)
        settings = chat.named_in(config)
        run_id = start_run(
            db, "calibrate", settings.model_dump(mode="json") | {"sae_id": sae_id, "alone": alone}
        )
        client = chat.open(db, run_id).simulator
        calibrator = Calibrator(db, client, settings, alone, sae_id, run_id)
        explanations = [read_explanation(db, f, choice.authors) for f in features]
        try:
            calibration = wait_for(calibrator.run(explanations, quiet=quiet))
        except* SafeSailError as group:
            raise group.exceptions[0] from group
        finish_run(db, run_id)
        return calibration


def detect_intruders(
    store: Path, choice: FeatureChoice, chat: ChatSettings, config: AutointerpConfig, *, quiet: bool
) -> IntruderReport:
    """Score features of an SAE in `store` by intruder detection, which needs no explanation.

    Raises:
        NotFoundError: no store, no selection or no harvest.
        BudgetExceededError: not one feature was reached.
        LLMUnavailableError: the endpoint is dead; what was answered is kept.
        CacheMissError: replay was asked for and an answer is not in the cache.
    """
    _needs_store(store)
    with open_writer(store) as db:
        chosen = choose(db, choice, config.order)
        settings = chat.named_in(config)
        features = [FeatureId(chosen.sae_id, c.feature) for c in chosen.features][: choice.n]
        run_id = start_run(db, "score", settings.model_dump(mode="json") | {"sae_id": chosen.sae_id})
        client = chat.open(db, run_id).simulator
        origin = intruder_origin(db, run_id, chosen.sae_id, settings)
        test = IntruderTest(db, client, settings, chosen.sae_id, origin)
        size = settings.concurrency * settings.intruder.trials_per_call
        scores: list[IntruderScore] = []
        try:
            for start in tqdm(range(0, len(features), size), desc="intruders", unit="batch", disable=quiet):
                if test.stopped_by is None:
                    batch = features[start : start + size]
                    wait_for(test.test(batch, decide=False))
                    scores += test.scores(batch)
        except* SafeSailError as group:
            raise group.exceptions[0] from group
        finish_run(db, run_id)
        if test.stopped_by and not scores:
            raise BudgetExceededError(f"the budget tests no feature of {chosen.sae_id}: {test.stopped_by}")
        simulator = f"{settings.scoring.model} @ {client.endpoint}"
        left = len(features) - len(scores)
        return IntruderReport(chosen.sae_id, simulator, scores, client.spent_tokens, left, test.stopped_by)


def _explained(db: Db, choice: FeatureChoice, store: Path) -> tuple[str, list[FeatureId]]:
    """The SAE that is meant, and its features with an explanation, in the order in which they were written."""
    sae_id = choose_sae(db, choice)
    explained = [FeatureId(sae_id, j) for j in explained_features(db, sae_id, choice.authors)]
    features = [f for f in explained if not choice.named or f in choice.named][: choice.n]
    if not features:
        raise _nothing_to_score(db, sae_id, store)
    return sae_id, features


def _nothing_to_score(db: Db, sae_id: str, store: Path) -> ConfigError:
    theirs = [
        f"--origin {origin} --explained-by {by!r}"
        for origin, by, _ in authors_of(db, sae_id)
        if origin != "run"
    ]
    if not theirs:
        return ConfigError(f"{sae_id} has no explanation in {store}; run `safesail explain` first")
    return ConfigError(
        f"no such explanation of {sae_id} in {store}; there are those of {', or '.join(theirs[:4])}"
    )


def _done(report: RunReport) -> RunReport:
    """The report of a run that did something.

    Raises:
        BudgetExceededError: not one feature was reached.
    """
    if report.stopped_by and not (report.scored or report.undefined or report.failed):
        raise BudgetExceededError(f"the budget finishes no feature of {report.sae_id}: {report.stopped_by}")
    return report


def make_plan(db: Db, choice: FeatureChoice, config: AutointerpConfig) -> Plan:
    """What is to be explained and scored, by a choice of features.

    Raises:
        NotFoundError: the SAE has no selection.
        ConfigError: no feature is left to explain.
    """
    return plan_features(db, choose(db, choice, config.order), config)


def plan_features(db: Db, chosen: Chosen, config: AutointerpConfig) -> Plan:
    """The plan for some features: which of them share an explanation, and what the explainer is told."""
    sae_id = chosen.sae_id
    twins = near_duplicates(db, sae_id, [c.feature for c in chosen.features], config.near_duplicates)
    known = {c.concept_id: c for c in read_concepts(db)}
    concepts = {
        FeatureId(sae_id, c.feature): [known[concept_id] for concept_id in c.concept_ids]
        for c in chosen.features
    }
    return Plan(
        sae_id,
        list(concepts),
        shared={FeatureId(sae_id, later): FeatureId(sae_id, earlier) for later, earlier in twins.items()},
        hints={f: of[0].name for f, of in concepts.items() if of} if config.tell_concept else {},
        tags={
            FeatureId(sae_id, c.feature): _concept_tags([known[i] for i in c.concept_ids if i not in c.loose])
            for c in chosen.features
        },
        basis=chosen.basis,
    )


def run_plan(db: Db, plan: Plan, chat: ChatSettings, config: AutointerpConfig, *, quiet: bool) -> RunReport:
    """Explain and score the features of a plan, the first one first, until they or the budget are used up.

    Args:
        db: Store, open for writing.
        plan: What is to be done.
        chat: Whom to ask.
        config: How.
        quiet: No progress bar.

    Raises:
        LLMUnavailableError: an endpoint is dead; what is finished is stored.
        CacheMissError: replay was asked for and an answer is not in the cache.
    """
    settings = chat.named_in(config)
    stage = "score" if plan.known else "explain"
    run_id = start_run(db, stage, settings.model_dump(mode="json") | {"sae_id": plan.sae_id})
    origin = score_origin(db, run_id, plan.sae_id, settings)
    record_all_tags(db, plan.tags, source="concepts")
    clients = chat.open(db, run_id)
    walk = make_walk(db, clients, settings, origin)
    try:
        report = wait_for(walk.run(plan, quiet=quiet))
    except* SafeSailError as group:
        raise group.exceptions[0] from group  # the first one says why; the others followed from it
    report.run_id = run_id
    if isinstance(clients.simulator, MeteredClient):
        report.asked_again = clients.simulator.asked_again
    finish_run(db, run_id)
    return report


def _concept_tags(concepts: Sequence[Concept]) -> list[str]:
    """Tags of concepts: the leaf, or the concept's own name where it has none."""
    return list(dict.fromkeys(c.leaf or c.concept_id.rpartition(".")[2] for c in concepts))


def _needs_store(store: Path) -> None:
    if not store.is_file():
        raise NotFoundError(f"no store at {store}; run `safesail select-sae` and `safesail harvest` first")
