"""Texts that would do harm on a page that took them for markup, and a catalog that holds them in every field."""

import json
from pathlib import Path

from safesail.store.connection import open_writer

MARK = "window.harmed=1"
"""What the strings would run."""

MARKUP = (
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f"<svg onload={MARK}>",
    f"<svg><script>{MARK}</script></svg>",
    f"<svg><animate onbegin={MARK} attributeName=x dur=1s>",
    f"<body onload={MARK}>",
    f"<iframe src=javascript:{MARK}></iframe>",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'></iframe>",
    f"<object data=javascript:{MARK}></object>",
    f"<embed src=javascript:{MARK}>",
    f"<a href=javascript:{MARK}>click</a>",
    f"<a href='java\nscript:{MARK}'>click</a>",
    f"<math><mtext></mtext><script>{MARK}</script></math>",
    f"<details open ontoggle={MARK}>",
    f"<input autofocus onfocus={MARK}>",
    f"<video><source onerror={MARK}></video>",
    f"<style>@import 'http://outside.example/x.css';</style><p style='x:expression({MARK})'>",
    "<link rel=stylesheet href=http://outside.example/x.css>",
    "<base href=http://outside.example/>",
    "<meta http-equiv=refresh content='0;url=http://outside.example/'>",
    "<form action=http://outside.example/><button>send",
    f'" onmouseover="{MARK}" x="',
    f"' onmouseover='{MARK}' x='",
    f'"><script>{MARK}</script>',
    f"'><script>{MARK}</script>",
    f"--><script>{MARK}</script>",
    f"]]><script>{MARK}</script>",
    f"</title><script>{MARK}</script>",
    f"</textarea><script>{MARK}</script>",
    f"</style><script>{MARK}</script>",
    f"</template><script>{MARK}</script>",
    f"</noscript><script>{MARK}</script>",
    f"</table></main><h1>Taken over</h1><script>{MARK}</script>",
    "<!--",
    "<plaintext>",
    "<xmp>",
    f"javascript:{MARK}",
    f"data:text/html,<script>{MARK}</script>",
    "{{ 7 * 7 }}{% raw %}",
    "{{ ''.__class__.__mro__ }}",
    "${7*7}`${" + MARK + "}`",
    "%3Cscript%3E" + MARK + "%3C/script%3E",
    "&lt;script&gt;" + MARK + "&lt;/script&gt;",
    "&#60;script&#62;" + MARK,
    f"\\u003cscript\\u003e{MARK}",
    f"\u2028{MARK}\u2029",
    f'");{MARK};("',
    f"');{MARK};('",
    f"*/{MARK}/*",
)
TRICKS = (
    "safe \u202egnp.exe\u202c end",  # reads backwards
    "\u2066hidden\u2069 \u2067turned\u2069",
    "\u200e\u200f\u061c marks",
    "zero\u200bwidth\ufeff",
    "soft\u00adhyphen",
    "\U000e0041\U000e0042 tags",
    "bell\x07 escape\x1b[31m red\x1b[0m",
    "back\x08space del\x7f c1\x9b31m",
    "\r\nSet-Cookie: harmed=1",
    "line\x0bfeed\x0c form",
    "Z̸̢̛͓͚̦̈́a̷l̵g̶o̴" * 20,
    "x" * 5000,
    "\t\t  \n\n  ",
    "عربي עברית mixed",
    "👩‍👩‍👧‍👦 🏳️‍🌈 क्षि",
    "../../etc/passwd",
    "..\\..\\windows",
    "%00%2e%2e%2f",
    "' OR 1=1; DROP TABLE features; --",
    "\"; COPY features TO '/tmp/x'; --",
    '=HYPERLINK("http://outside.example")',
    "CON.html?x#y&z=1",
    "constructor",
    "__proto__",
)
STRINGS = (*MARKUP, *TRICKS)


def fill(path: Path) -> None:
    """A store of one feature per string and SAE, which has the string wherever a text may stand."""
    with open_writer(path) as db:
        db.execute(
            "INSERT INTO harvests VALUES (1, ?, ?, ?, ?, 64, true)", [STRINGS[0]] * 3 + [json.dumps({})]
        )
        for n, text in enumerate(STRINGS):
            sae = text if n % 3 == 0 else STRINGS[0]
            if n % 3 == 0:
                _sae(db, sae, n, text)
            db.execute(
                "INSERT INTO features VALUES (?, ?, 1, 100, 2, 0.02, 1.0, 4.0, 3.0, 3.5, 3.9, ?)",
                [sae, n, [text, f" {text}"]],
            )
            db.execute(
                "INSERT INTO explanations (explanation_id, sae_id, feature, text, lang, explainer, prompt_hash, origin)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [f"e{n}", sae, n, text, text, text, text, text],
            )
            db.execute(
                "INSERT INTO explanations (explanation_id, sae_id, feature, explainer, origin, error, message)"
                " VALUES (?, ?, ?, ?, 'run', ?, ?)",
                [f"f{n}", sae, n, text, text, text],
            )
            db.execute(
                "INSERT INTO scores (explanation_id, sae_id, feature, method, simulator, value, low, high, chance,"
                " run_id, settings_hash, prompt_hash, reason) VALUES (?, ?, ?, ?, ?, 0.5, 0.4, 0.6, 0.1, ?, ?, ?, ?)",
                [f"e{n}", sae, n, text, text, text, text, text, text],
            )
            db.execute("INSERT INTO tags VALUES (?, ?, ?, ?, 1)", [sae, n, text, text])
            db.execute("INSERT INTO concepts VALUES (?, ?, ?, ?, ?)", [text] * 5)
            db.execute(
                "INSERT INTO feature_concepts VALUES ('s0', ?, ?, ?, 0.9, 0.1, 5, true)", [sae, n, text]
            )
            db.execute(
                "INSERT INTO sae_scores VALUES ('s0', ?, ?, ?, 'detection', 0.8, 0.7, 0.9, 0.5, 0.3, 5, NULL)",
                [STRINGS[0], "domain" if n % 2 else "concept", text],
            )
            for measure in ("log_odds_followers", "risen"):
                db.execute(
                    "INSERT INTO effects (sae_id, feature, condition, texts, measure, expected, value, null_value,"
                    " tokens, n_texts, reason, seed, settings, settings_hash, fingerprint, sae_sha256, texts_id)"
                    " VALUES (?, ?, ?, ?, ?, 1, 0.5, 0.1, ?, 8, ?, 0, ?, ?, ?, ?, ?)",
                    [sae, n, text, text, measure, [text], *[text] * 6],
                )
            db.execute("INSERT INTO logit_lens VALUES (?, ?, ?, [1.0], ?, [-1.0])", [sae, n, [text], [text]])
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, now(), now(), 1)", [text, text, "{}", text])
            db.execute(
                "INSERT INTO llm_calls (cache_key, run_id, stage, model, endpoint, prompt_hash, request, status,"
                " reserved, created_at) VALUES (?, ?, ?, ?, ?, ?, '{}', 'ok', 1, now())",
                [text] * 6,
            )
            db.execute(
                "INSERT INTO documents VALUES (1, ?, ?, ?, 3, true, ?)",
                [text, text, "test" if n % 2 else "train", text],
            )
            db.execute(
                "INSERT INTO windows VALUES (1, ?, ?, 0, ?, [1, 2, 3], ?)",
                [n, text, "test" if n % 2 else "train", [text, f" {text}", text]],
            )
            key = db.execute("SELECT sae_key FROM saes WHERE sae_id = ?", [sae]).fetchone()
            assert key is not None
            db.execute(
                "INSERT INTO activations_f32 VALUES (?, ?, ?, 0, 4.0), (?, ?, ?, 0, 1.0)",
                [key[0], n, n * 64, key[0], n, n * 64 + 1],
            )
        db.execute(
            "INSERT INTO selections VALUES ('s0', ?, 'set', '{\"controls\": []}', 8, 0.3, 1)", [STRINGS[0]]
        )
        db.execute(
            "INSERT INTO sae_scores VALUES ('s0', ?, 'all', 'all', 'detection', 0.8, 0.7, 0.9, 0.5, 0.3, 5, NULL)",
            [STRINGS[0]],
        )


def _sae(db: "object", sae: str, n: int, text: str) -> None:
    from safesail.store.connection import Db

    assert isinstance(db, Db)
    db.execute("INSERT OR IGNORE INTO subject_models VALUES (?, ?, 8, 2)", [text, text])
    db.execute(
        "INSERT INTO saes (sae_id, sae_key, model_id, layer, hook, d_in, d_sae, architecture, sha256, source)"
        " VALUES (?, ?, ?, ?, ?, 8, 500, ?, ?, ?)",
        [sae, n + 1, text, n % 5, text, text, text, text],
    )
    db.execute("INSERT INTO harvest_saes VALUES (?, 1)", [n + 1])
