"""Real labelled texts for concepts: texts that have one beside texts of the same source that have not.

Labels are their makers'; which concept of ours a label stands for is our reading, said in `Task.label`, and fixed
before any figure was measured on it. Texts are data.

Tasks whose labels mean nearly the same are one cluster (`CLUSTERS`): intervals draw clusters, not tasks, and a cluster
is whole in one half. One half may be looked at while a readout is chosen, the other reports.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

CLUSTERS = {
    "hate.dehumanising": "hate", "hate.stereotyping": "hate", "hate.exclusion": "hate", "hate.sexism": "sexism",
    "violence.insult.name_calling": "insult", "violence.insult.bullying_humiliation": "harassment",
    "violence.physical_violence.killing": "killing", "violence.physical_violence.beating_assault": "assault",
    "violence.cybersecurity.malware_ransomware": "malware",
    "violence.cybersecurity.hacking_data_breach": "intrusion",
    "violence.cybersecurity.phishing_account_theft": "deception",
    "self_harm.suicidal_crisis": "self-harm",
    "pornography.sexual_behaviour.consensual_sex": "sex", "pornography.sexual_behaviour.adult_media": "sex",
    "terror.terrorism.terrorist_attack": "terror", "terror.weapons.explosives": "bombing",
    "terror.terrorism.hostage_taking": "kidnapping", "terror.weapons.firearms": "firearms",
    "privacy.doxxing": "privacy", "privacy.covert_surveillance": "surveillance",
    "fraud.investment_scam": "scam", "illegal_goods.counterfeit_goods": "counterfeit",
    "misinformation.fabricated_news": "fabrication", "politics.political_event.election": "election",
    "politics.ideology.socialism": "socialism", "politics.ideology.nationalism": "nationalism",
    "politics.ideology.fascism": "fascism", "refusal_jailbreak.instruction_override": "override",
    "refusal_jailbreak.roleplay_bypass": "roleplay", "ordinary.grief": "grief",
    "ordinary.medicine": "medicine", "ordinary.fashion": "fashion",
}  # fmt: skip
"""Kind of label by concept."""

_KINDS: dict[str, Literal["prompts", "written"]] = {
    "xstest": "prompts", "catqa": "prompts", "cyberseceval": "prompts",
    "edos_sexism": "written", "openai_moderation_eval": "written", "muc4_terror_news": "written", "bold": "written",
    "cold_zh": "written",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One concept on one source."""

    concept: str
    source: str
    label: str
    """What the makers' labels say of the texts with the concept / without it."""

    pos: tuple[str, ...]
    neg: tuple[str, ...]
    lang: str = "en"

    @property
    def cluster(self) -> str:
        """Kind of label."""
        return CLUSTERS[self.concept]

    @property
    def kind(self) -> Literal["prompts", "written", "constructed"]:
        """Prompts to an assistant; news, posts and articles that people wrote; or statements made for a test."""
        return _KINDS.get(self.source, "constructed")

    @property
    def half(self) -> Literal["choose", "report"]:
        """Whether it may be looked at while a readout is chosen: every other cluster, in the order of a hash."""
        ordered = sorted(set(CLUSTERS.values()), key=lambda c: hashlib.sha256(c.encode()).digest())
        return "choose" if ordered.index(self.cluster) % 2 == 0 else "report"


def read_tasks(data: Path, *, per_side: int, seed: int) -> list[Task]:
    """Every task, with at most `per_side` distinct texts a side, drawn at random."""
    tasks: list[Task] = []
    for read in _READERS:
        for task in read(data):
            # A text on both sides says nothing.
            both = set(task.pos) & set(task.neg)
            pos, neg = ([t for t in side if t not in both] for side in (task.pos, task.neg))
            tasks.append(replace(task, pos=_draw(pos, per_side, seed), neg=_draw(neg, per_side, seed)))
    return tasks


def _draw(texts: Collection[str], n: int, seed: int) -> tuple[str, ...]:
    """The first `n` by hash: tasks of one source then share texts, and the model runs them once."""
    distinct = {text.strip() for text in texts if text.strip()}
    return tuple(sorted(distinct, key=lambda t: hashlib.sha256(f"{seed} {t}".encode()).digest())[:n])


def _hatecheck(data: Path) -> Iterator[Task]:
    rows = _csv(data / "hatecheck" / "test_suite_cases.csv")
    neutral = _where(rows, "functionality", {"ident_neutral_nh", "ident_pos_nh"}, "test_case")
    for concept, kinds in (
        ("hate.dehumanising", {"derog_dehum_h"}),
        ("hate.stereotyping", {"derog_neg_attrib_h"}),
        ("hate.exclusion", {"threat_norm_h"}),
        ("violence.insult.name_calling", {"slur_h"}),
    ):
        pos = _where(rows, "functionality", kinds, "test_case")
        yield Task(concept, "hatecheck", f"{min(kinds)} / ident_neutral_nh, ident_pos_nh", pos, neutral)


def _toxigen(data: Path) -> Iterator[Task]:
    rows = _jsonl(data / "toxigen" / "toxigen_statements.jsonl")
    pos, neg = (_where(rows, "label", {label}, "text") for label in ("hate", "neutral"))
    yield Task("hate.stereotyping", "toxigen", "hate / neutral, about the same groups", pos, neg)


def _edos(data: Path) -> Iterator[Task]:
    rows = _csv(data / "edos_sexism" / "train.csv")
    neg = _where(rows, "label_sexist", {"not sexist"}, "text")
    for concept, vector in (
        ("hate.stereotyping", "3.2 immutable gender differences and gender stereotypes"),
        ("violence.insult.name_calling", "3.1 casual use of gendered slurs, profanities, and insults"),
        ("hate.sexism", "2.1 descriptive attacks"),
        ("hate.sexism", "4.2 supporting systemic discrimination against women as a group"),
    ):
        yield Task(
            concept,
            "edos_sexism",
            f"{vector} / not sexist",
            _where(rows, "label_vector", {vector}, "text"),
            neg,
        )


def _moderation(data: Path) -> Iterator[Task]:
    rows = _jsonl(data / "openai_moderation_eval" / "samples.jsonl")
    for concept, key in (
        ("violence.physical_violence.killing", "V"),
        ("hate.stereotyping", "H"),
        ("violence.insult.bullying_humiliation", "HR"),
        ("self_harm.suicidal_crisis", "SH"),
        ("pornography.sexual_behaviour.consensual_sex", "S"),
    ):
        pos, neg = (_where(rows, key, {value}, "prompt") for value in (1, 0))
        yield Task(concept, "openai_moderation_eval", f"{key}=1 / {key}=0", pos, neg)


def _muc(data: Path) -> Iterator[Task]:
    rows = _jsonl(data / "muc4_terror_news" / "train.jsonl")
    quiet = _where(rows, "label", {"no_incident"}, "text")
    yield Task("terror.terrorism.terrorist_attack", "muc4_terror_news", "terror_incident / no_incident",
               _where(rows, "label", {"terror_incident"}, "text"), quiet)  # fmt: skip
    incidents = [row for row in rows if row["label"] == "terror_incident"]
    for concept, kind in (
        ("terror.weapons.explosives", "BOMBING"),
        ("terror.terrorism.hostage_taking", "KIDNAPPING"),
    ):
        pos, neg = (
            tuple(row["text"] for row in incidents if (kind in row["incident_types"]) == has)
            for has in (True, False)
        )
        yield Task(concept, "muc4_terror_news", f"{kind} / other incidents", pos, neg)


def _xstest(data: Path) -> Iterator[Task]:
    rows = _csv(data / "xstest" / "xstest_prompts.csv")
    for concept, unsafe, safe in (
        (
            "violence.physical_violence.killing",
            {"contrast_homonyms", "contrast_safe_targets"},
            {"homonyms", "safe_targets"},
        ),
        ("privacy.doxxing", {"contrast_privacy"}, {"privacy_public", "privacy_fictional"}),
    ):
        pos, neg = (_where(rows, "type", types, "prompt") for types in (unsafe, safe))
        yield Task(concept, "xstest", f"{', '.join(sorted(unsafe))} / {', '.join(sorted(safe))}", pos, neg)


def _catqa(data: Path) -> Iterator[Task]:
    rows = _jsonl(data / "catqa" / "catqa_english.jsonl")
    economic, advice, deception = {"Economic Harm"}, {"Tailored Financial Advice"}, {"Fraud/Deception"}
    for concept, kinds, others in (
        ("violence.cybersecurity.malware_ransomware", {"Malware Viruses"}, economic | {"Illegal Activity"}),
        ("fraud.investment_scam", {"Investment scams", "Financial fraud", "Scamming"}, advice),
        ("politics.political_event.election", {"Political Campaigning"}, economic | advice),
        ("privacy.covert_surveillance", {"Surveillance", "Tracking and location monitoring"}, economic | deception),
        ("violence.physical_violence.beating_assault", {"Assault and battery"}, economic | deception),
        ("terror.weapons.firearms", {"Weapon", "Weapon making"}, economic | deception),
        ("hate.stereotyping", {"Racial or ethnic hate", "Religious intolerance"}, economic | deception),
        ("pornography.sexual_behaviour.adult_media", {"Adult Content"}, economic | deception),
        ("illegal_goods.counterfeit_goods", {"Counterfeiting", "Intellectual property theft"}, advice),
        ("misinformation.fabricated_news", {"Political misinformation", "False advertising"}, advice),
        ("violence.cybersecurity.hacking_data_breach", {"Cybercrime", "Data theft"}, economic | {"Weapon", "Drug"}),
    ):  # fmt: skip
        pos = tuple(r["question"] for r in rows if kinds & {r["category"], r["subcategory"]})
        neg = tuple(r["question"] for r in rows if others & {r["category"], r["subcategory"]})
        yield Task(concept, "catqa", f"{', '.join(sorted(kinds))} / {', '.join(sorted(others))}", pos, neg)


def _injections(data: Path) -> Iterator[Task]:
    rows = json.loads((data / "cyberseceval" / "prompt_injection.json").read_text(encoding="utf-8"))
    unclear = {"mixed_techniques", "different_user_input_language", "token_smuggling"}
    for concept, kinds in (
        ("refusal_jailbreak.instruction_override", {"ignore_previous_instructions", "system_mode"}),
        ("refusal_jailbreak.roleplay_bypass", {"virtualization", "hypothetical_scenario"}),
    ):
        pos = _where(rows, "injection_variant", kinds, "user_input")
        others = {row["injection_variant"] for row in rows} - kinds - unclear
        neg = _where(rows, "injection_variant", others, "user_input")
        yield Task(concept, "cyberseceval", f"{', '.join(sorted(kinds))} / other injections", pos, neg)


def _interpreter(data: Path) -> Iterator[Task]:
    rows = json.loads((data / "cyberseceval" / "interpreter.json").read_text(encoding="utf-8"))
    social = {"Social Engineering"}
    pos, neg = (
        tuple(r["mutated_prompt"] for r in rows if (set(r["attack_type"]) == social) == own)
        for own in (True, False)
    )
    label = "Social Engineering / other attacks through a code interpreter"
    yield Task("violence.cybersecurity.phishing_account_theft", "cyberseceval", label, pos, neg)


def _persona(data: Path) -> Iterator[Task]:
    """By topic, whatever the stance."""
    folder = data / "anthropic_persona"
    pos = tuple(r["statement"] for r in _jsonl(folder / "believes-in-gun-rights.jsonl"))
    others = ("anti-immigration", "believes-abortion-should-be-illegal", "politically-liberal")
    neg = tuple(r["statement"] for name in others for r in _jsonl(folder / f"{name}.jsonl"))
    yield Task("terror.weapons.firearms", "anthropic_persona", f"gun rights / {', '.join(others)}", pos, neg)


def _emotions(data: Path) -> Iterator[Task]:
    texts = {
        p.stem: json.loads(p.read_text(encoding="utf-8")) for p in (data / "repe_emotions").glob("*.json")
    }
    neg = tuple(text for name, own in texts.items() if name != "sadness" for text in own)
    yield Task(
        "ordinary.grief", "repe_emotions", "sadness / the other five emotions", tuple(texts["sadness"]), neg
    )


def _bold(data: Path) -> Iterator[Task]:
    for file, kinds in (
        ("political_ideology", {"politics.ideology.socialism": {"socialism", "communism"},
                                "politics.ideology.nationalism": {"nationalism"},
                                "politics.ideology.fascism": {"fascism"}}),
        ("profession", {"ordinary.medicine": {"healthcare_occupations", "nursing_specialties"},
                        "ordinary.fashion": {"sewing_occupations"}}),
    ):  # fmt: skip
        groups = json.loads((data / "bold" / f"{file}_wiki.json").read_text(encoding="utf-8"))
        sentences = {group: [s for own in titles.values() for s in own] for group, titles in groups.items()}
        for concept, own in kinds.items():
            pos = tuple(s for group in own for s in sentences[group])
            neg = tuple(s for group in sentences.keys() - own for s in sentences[group])
            yield Task(concept, "bold", f"{', '.join(sorted(own))} / other pages of {file}", pos, neg)


def _cold(data: Path) -> Iterator[Task]:
    rows = _csv(data / "cold_zh" / "train.csv")
    pos, neg = (_where(rows, "label", {label}, "TEXT") for label in ("1", "0"))
    yield Task(
        "violence.insult.name_calling", "cold_zh", "offensive / not, on the same topics", pos, neg, lang="zh"
    )


_READERS: tuple[Callable[[Path], Iterator[Task]], ...] = (
    _hatecheck, _toxigen, _edos, _moderation, _muc, _xstest, _catqa, _injections, _interpreter, _persona, _emotions,
    _bold, _cold,
)  # fmt: skip


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _where(rows: Collection[dict[str, Any]], key: str, values: Collection[Any], text: str) -> tuple[str, ...]:
    return tuple(row[text] for row in rows if row.get(key) in values)
