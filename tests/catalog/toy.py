"""The catalog that the tests of this folder are about: every number in it is known."""

from safesail.store.connection import Db

SAE = "toy-l2"
TEXTS = {
    0: "People smuggling across borders",
    1: "Insults and slurs in quarrels",
    2: "Recipes for apple pie",
    3: "走私人口的犯罪团伙",
}
SCORES: dict[int, tuple[float | None, float | None, float | None]] = {
    0: (0.6, 0.5, 0.7),
    1: (0.4, 0.3, 0.5),
    2: (0.2, 0.1, 0.3),
    3: (None, None, None),
}


def fill(db: Db) -> None:
    """Features 0 to 4 of 16: four explained, the fifth failed; feature 1 an insult, 0 and 3 illegal goods."""
    db.execute("INSERT INTO subject_models VALUES ('toy', ?, 8, 4)", ["f" * 64])
    db.execute(
        "INSERT INTO saes VALUES"
        " (?, nextval('sae_keys'), 'toy', 2, 'blocks.2.hook_mlp_out', 8, 16, 'topk', 4, ?, 'toy')",
        [SAE, "a" * 64],
    )
    db.execute(
        "INSERT INTO harvests VALUES (nextval('harvest_keys'), 'h1', 'toy', ?, '{}', 8, true)", ["f" * 64]
    )
    db.execute("INSERT INTO harvest_saes VALUES (1, 1)")
    db.execute(
        "INSERT INTO features SELECT ?, i, 1, 100, 10, 0.1, 1.5, 3.0, 2.0, 2.5, 2.9, ['the', 'smuggled']"
        " FROM range(16) t(i)",
        [SAE],
    )
    for n, (document, whole) in enumerate((("d0", True), ("d1", False))):
        db.execute(
            "INSERT INTO documents VALUES (1, ?, 'f.txt', 'train', 3, ?, ?)", [document, whole, f"text {n}"]
        )
        db.execute(
            "INSERT INTO windows VALUES (1, ?, ?, 0, 'train', [1, 2, 3], ['They', ' smuggled', ' people'])",
            [n, document],
        )
    # window 0: feature 0 at tokens 1 and 2, feature 1 at token 0; window 1: feature 0 at token 1
    db.execute(
        "INSERT INTO activations_f32 VALUES"
        " (1, 0, 1, 16, 3.0), (1, 0, 2, 16, 1.0), (1, 0, 9, 16, 2.5), (1, 1, 16, 16, 0.5)"
    )
    for i, text in TEXTS.items():
        db.execute(
            "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, prompt_hash, origin)"
            " VALUES (?, ?, ?, ?, 'writer', 'p1', 'run')",
            [f"e{i}", SAE, i, text],
        )
        value, low, high = SCORES[i]
        db.execute(
            "INSERT INTO scores (explanation_id, sae_id, feature, method, simulator, value, low, high, chance, reason)"
            " VALUES (?, ?, ?, 'segment', 'guesser', ?, ?, ?, 0.05, ?)",
            [f"e{i}", SAE, i, value, low, high, None if value is not None else "true activity is constant"],
        )
    db.execute(
        "INSERT INTO explanations (explanation_id, sae_id, feature, explainer, origin, error, message)"
        " VALUES ('e4', ?, 4, 'writer', 'run', 'UnparsableAnswerError', 'no JSON')",
        [SAE],
    )
    db.execute(
        "INSERT INTO tags VALUES (?, 0, 'smuggling', 'explainer', 2), (?, 1, 'violence', 'concepts', NULL),"
        " (?, 1, 'insult', 'explainer', NULL), (?, 3, 'illegal_goods', 'explainer', NULL)",
        [SAE] * 4,
    )
    db.execute(
        "INSERT INTO concepts VALUES ('violence.insult.slur', 'violence', 'insult', 'slur', 'A slur.'),"
        " ('fraud.phishing.mail', 'fraud', 'phishing', 'mail', 'A false mail.')"
    )
    db.execute(
        "INSERT INTO feature_concepts VALUES ('s1', ?, 1, 'violence.insult.slur', 0.8, 0.1, 20, true),"
        " ('s1', ?, 9, 'fraud.phishing.mail', 0.7, 0.0, 20, true)",
        [SAE, SAE],
    )
    # feature 0 does something; of feature 1 it is not shown, and one measure is undefined
    db.execute(
        "INSERT INTO effects BY NAME SELECT * FROM (VALUES"
        " (0, 'ablate', 'firing', 'log_odds_followers', -1, -0.5, -0.01, 0.0, 0.2, 0.8, [-0.02, -0.01, 0.0], 0.01,"
        "  0.04, NULL, NULL, 6, ['river', ' boat'], NULL),"
        " (1, 'steer', 'neutral', 'log_odds_followers', 1, 0.1, 0.05, 0.0, -0.2, 0.3, [0.0, 0.05, 0.1], 0.4, 0.6,"
        "  4.0, 0.09, 6, [' slur'], NULL),"
        " (1, 'steer', 'neutral', 'kl', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2, NULL,"
        "  'too few')"
        ") t(feature, condition, texts, measure, expected, value, null_value, random_value, gain_low, gain_high,"
        " null_values, p, q, strength, cost, n_texts, tokens, reason),"
        " (SELECT ? AS sae_id, 0 AS seed, '{}' AS settings, 'm1' AS settings_hash, ? AS fingerprint, ? AS sae_sha256,"
        " 'h1' AS texts_id)",
        [SAE, "f" * 64, "a" * 64],
    )
