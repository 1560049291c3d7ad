"""Tables and views of the store as this version has them, in SQL. All times are UTC.

Whoever changes a table adds a step to `migrations.py` for stores that were made before.
"""

TABLES = (
    """
    CREATE TABLE runs (
        run_id      TEXT PRIMARY KEY,
        stage       TEXT NOT NULL,
        settings    TEXT NOT NULL,       -- JSON
        version     TEXT NOT NULL,       -- of safesail
        started_at  TIMESTAMP NOT NULL,
        finished_at TIMESTAMP,         -- NULL: running, or killed
        seconds     DOUBLE
    )
    """,
    """
    CREATE TABLE subject_models (
        model_id    TEXT PRIMARY KEY,
        fingerprint TEXT,                -- sha256 of configuration and weights; NULL: imported, unknown
        d_model     INTEGER,
        n_layers    INTEGER
    )
    """,
    "CREATE SEQUENCE sae_keys START 1",
    """
    CREATE TABLE saes (
        sae_id       TEXT PRIMARY KEY,
        sae_key      INTEGER NOT NULL UNIQUE,   -- short key used in `activations`
        model_id     TEXT NOT NULL,
        layer        INTEGER,
        hook         TEXT NOT NULL,
        d_in         INTEGER,                   -- NULL: imported, unknown
        d_sae        INTEGER,
        architecture TEXT,
        k            INTEGER,
        sha256       TEXT,                      -- of the weights; NULL: imported, unknown
        source       TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE concepts (
        concept_id TEXT PRIMARY KEY,
        domain     TEXT NOT NULL,
        leaf       TEXT,
        name       TEXT NOT NULL,
        definition TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE concept_pairs (
        pair_id    TEXT PRIMARY KEY,
        concept_id TEXT NOT NULL,
        lang       TEXT NOT NULL,
        form       TEXT NOT NULL,
        pos        TEXT NOT NULL,
        neg        TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE selections (                   -- one row per SAE scored on a concept set with given settings
        selection_id TEXT NOT NULL,             -- hash of SAE, model, concept set and settings
        sae_id       TEXT NOT NULL,
        concept_set  TEXT NOT NULL,             -- hash of all pairs
        settings     TEXT NOT NULL,             -- JSON
        l0           DOUBLE,                    -- mean active features per token on the pairs' texts
        fvu          DOUBLE,                    -- fraction of variance unexplained there, or NULL
        seconds      DOUBLE NOT NULL,
        PRIMARY KEY (selection_id)
    )
    """,
    """
    CREATE TABLE sae_scores (
        selection_id TEXT NOT NULL,
        sae_id       TEXT NOT NULL,
        scope        TEXT NOT NULL CHECK (scope IN ('concept', 'domain', 'all')),
        scope_id     TEXT NOT NULL,             -- concept_id, domain, or 'all'
        measure      TEXT NOT NULL,             -- i_cdf, l0_t0.5, ...
        value        DOUBLE,
        low          DOUBLE,                    -- 95 % bootstrap interval over pairs
        high         DOUBLE,
        null_value   DOUBLE,                    -- the same with the sides of the pairs drawn at random
        above_null   DOUBLE,                    -- value - null_value
        n_pairs      INTEGER NOT NULL,
        reason       TEXT,                      -- why value is NULL
        PRIMARY KEY (selection_id, scope, scope_id, measure)
    )
    """,
    """
    CREATE TABLE feature_concepts (
        selection_id TEXT NOT NULL,
        sae_id       TEXT NOT NULL,
        feature      INTEGER NOT NULL CHECK (feature >= 0),
        concept_id   TEXT NOT NULL,
        frequency    DOUBLE NOT NULL,           -- share of pairs in which the feature fires on q+ only
        swapped      DOUBLE NOT NULL,           -- share in which it fires on q- only
        n_pairs      INTEGER NOT NULL,
        candidate    BOOLEAN NOT NULL           -- frequency reaches the threshold of the selection
    )
    """,
    """
    CREATE TABLE separations (                  -- how a candidate, or a feature of a readout, grades a concept's texts
        selection_id TEXT NOT NULL,
        sae_id       TEXT NOT NULL,
        concept_id   TEXT NOT NULL,
        feature      INTEGER NOT NULL CHECK (feature >= 0),
        auc_pairs    DOUBLE NOT NULL,           -- q+ against q-
        auc_wide     DOUBLE,                    -- q+ against texts of other domains; NULL: there are none
        readout_rank INTEGER,                   -- from 1, in the concept's readout; NULL: not in it
        scale        DOUBLE NOT NULL,           -- what the feature is divided by in a readout
        PRIMARY KEY (selection_id, concept_id, feature)
    )
    """,
    "CREATE SEQUENCE harvest_keys START 1",
    """
    CREATE TABLE near_features (                -- candidates whose decoder directions are close
        sae_id  TEXT NOT NULL,
        feature INTEGER NOT NULL,
        other   INTEGER NOT NULL,               -- greater than `feature`
        cosine  DOUBLE NOT NULL,
        PRIMARY KEY (sae_id, feature, other)
    )
    """,
    """
    CREATE TABLE harvests (
        harvest_key INTEGER PRIMARY KEY,
        harvest_id  TEXT NOT NULL UNIQUE,       -- hash of model, SAEs, sources and settings
        model_id    TEXT NOT NULL,
        fingerprint TEXT NOT NULL,              -- of the subject model
        settings    TEXT NOT NULL,              -- JSON
        n_ctx       INTEGER NOT NULL,           -- most tokens in a window
        finished    BOOLEAN NOT NULL
    )
    """,
    """
    CREATE TABLE harvest_saes (                 -- an SAE has one harvest in a store
        sae_key     INTEGER PRIMARY KEY,
        harvest_key INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE shards (                       -- a row is written in the transaction that holds the shard's data
        harvest_key INTEGER NOT NULL,
        shard       INTEGER NOT NULL,
        content     TEXT NOT NULL,              -- hash of the shard's document ids, in order
        n_documents INTEGER NOT NULL,
        n_windows   BIGINT NOT NULL,
        n_tokens    BIGINT NOT NULL,
        PRIMARY KEY (harvest_key, shard)
    )
    """,
    """
    CREATE TABLE documents (
        harvest_key INTEGER NOT NULL,
        document_id TEXT NOT NULL,              -- hash of the text
        source      TEXT NOT NULL,
        split       TEXT NOT NULL CHECK (split IN ('train', 'calibration', 'test')),
        n_tokens    INTEGER NOT NULL,
        whole       BOOLEAN NOT NULL,           -- in the uniform sample of which every nonzero is kept
        text        TEXT NOT NULL,
        PRIMARY KEY (harvest_key, document_id)
    )
    """,
    """
    CREATE TABLE windows (
        harvest_key INTEGER NOT NULL,
        window_id   BIGINT NOT NULL,            -- 0, 1, 2, ... within the harvest
        document_id TEXT NOT NULL,
        start       INTEGER NOT NULL,           -- index of its first token in the document
        split       TEXT NOT NULL,
        token_ids   INTEGER[] NOT NULL,
        tokens      TEXT[] NOT NULL
    )
    """,
    """
    CREATE TABLE activations_f32 (              -- nonzeros only; sorted by sort_key
        sae_key     INTEGER NOT NULL,
        feature     INTEGER NOT NULL,
        sort_key    BIGINT NOT NULL,            -- feature * stride + token: ascends, so its differences are packed
        stride      BIGINT NOT NULL,            -- token slots of the harvest; 0: not sorted, sort_key is the token
        value       FLOAT NOT NULL
    )
    """,
    """
    CREATE TABLE activations_u8 (               -- the same, of harvests with precision u8
        sae_key     INTEGER NOT NULL,
        feature     INTEGER NOT NULL,
        sort_key    BIGINT NOT NULL,
        stride      BIGINT NOT NULL,
        code        UTINYINT NOT NULL           -- value = (code + 0.5) / 255.5 * the feature's maximum
    )
    """,
    """
    CREATE TABLE activation_scales (            -- of harvests with precision u8
        sae_key     INTEGER NOT NULL,
        feature     INTEGER NOT NULL,
        maximum     FLOAT NOT NULL
    )
    """,
    """
    CREATE TABLE features (
        sae_id     TEXT NOT NULL,
        feature    INTEGER NOT NULL CHECK (feature >= 0),
        harvest_key INTEGER,                    -- NULL: imported
        n_tokens   BIGINT,
        n_active   BIGINT,
        density    DOUBLE,                      -- n_active / n_tokens
        mean       DOUBLE,                      -- over active tokens
        maximum    DOUBLE,
        q90        DOUBLE,                      -- quantiles over active tokens
        q99        DOUBLE,
        q999       DOUBLE,
        top_tokens TEXT[],                      -- strings with the largest summed activation
        PRIMARY KEY (sae_id, feature)
    )
    """,
    "CREATE SEQUENCE explanation_order START 1",
    """
    CREATE TABLE explanations (
        explanation_id TEXT PRIMARY KEY,        -- hash of feature, text, explainer and prompt
        sae_id         TEXT NOT NULL,
        feature        INTEGER NOT NULL CHECK (feature >= 0),
        text           TEXT,                    -- NULL: failed, or masked
        masked         BOOLEAN NOT NULL DEFAULT false,
        lang           TEXT NOT NULL DEFAULT 'en',
        explainer      TEXT NOT NULL,           -- model and endpoint, or who released it
        prompt_hash    TEXT,                    -- NULL: imported, unknown
        origin         TEXT NOT NULL,           -- 'run', or the name of the catalog it came from
        confidence     DOUBLE,
        error          TEXT,                    -- class of the failure
        message        TEXT,
        ordinal        BIGINT NOT NULL DEFAULT nextval('explanation_order')
    )
    """,
    """
    CREATE TABLE tags (
        sae_id   TEXT NOT NULL,
        feature  INTEGER NOT NULL,
        tag      TEXT NOT NULL,
        source   TEXT NOT NULL,                 -- 'concepts', 'explainer', 'person', or the catalog's name
        severity INTEGER,                       -- 1 mild to 3 severe; 0 from a person: the feature does not have it
        PRIMARY KEY (sae_id, feature, tag, source)
    )
    """,
    "CREATE SEQUENCE score_order START 1",
    """
    CREATE TABLE scores (
        explanation_id TEXT NOT NULL,
        sae_id         TEXT NOT NULL,
        feature        INTEGER NOT NULL,
        method         TEXT NOT NULL,           -- segment, token, ...
        simulator      TEXT NOT NULL,
        prompt_hash    TEXT,
        value          DOUBLE,                  -- Pearson correlation over all units
        low            DOUBLE,
        high           DOUBLE,
        chance         DOUBLE,                  -- the same with another feature's explanation
        auc            DOUBLE,
        balanced_accuracy DOUBLE,
        n_units        INTEGER,
        n_windows      INTEGER,
        reason         TEXT,                    -- why value is NULL
        error          TEXT,                    -- class of the failure, where it failed
        tokens         BIGINT,                  -- billed for it, cached answers included
        run_id         TEXT,                    -- NULL: unknown, of an earlier version or imported
        settings       TEXT,                    -- JSON: windows, prompt and other settings; NULL: unknown
        settings_hash  TEXT NOT NULL DEFAULT 'unknown',
        ordinal        BIGINT NOT NULL DEFAULT nextval('score_order'),
        lookup         DOUBLE,                  -- `value` of a table token -> mean activation of train windows
        gain_low       DOUBLE,                  -- 95 % interval of value - lookup, paired over windows
        gain_high      DOUBLE,
        PRIMARY KEY (explanation_id, method, simulator, settings_hash)
    )
    """,
    """
    CREATE TABLE effects (                      -- what a change of a feature does to what the model says next
        sae_id          TEXT NOT NULL,
        feature         INTEGER NOT NULL CHECK (feature >= 0),
        condition       TEXT NOT NULL,          -- ablate, double, steer
        texts           TEXT NOT NULL,          -- firing: windows in which it fires; neutral: any, steered throughout
        measure         TEXT NOT NULL,          -- log_odds_<set>, kl, ce_firing, ...
        expected        INTEGER NOT NULL,       -- 1: a rise is expected, -1: a fall
        value           DOUBLE,                 -- median over texts
        null_value      DOUBLE,                 -- median of the same change along other features' directions
        random_value    DOUBLE,                 -- along random directions
        gain_low        DOUBLE,                 -- 95 % interval over texts of expected * (value - null)
        gain_high       DOUBLE,
        null_values     DOUBLE[],               -- of every other feature
        p               DOUBLE,                 -- one-sided rank among the nulls of all features of the SAE
        q               DOUBLE,                 -- Benjamini-Hochberg over features and conditions
        strength        DOUBLE,                 -- of steering, in multiples of the feature's maximum
        cost            DOUBLE,                 -- nats per token that steering adds to neutral text
        n_texts         INTEGER NOT NULL,
        tokens          TEXT[],                 -- the token set; of `risen`: what steering makes likelier
        reason          TEXT,                   -- why value is NULL
        seed            INTEGER NOT NULL,
        settings        TEXT NOT NULL,          -- JSON
        settings_hash   TEXT NOT NULL,          -- of everything that can change a figure
        fingerprint     TEXT NOT NULL,          -- of the subject model
        sae_sha256      TEXT NOT NULL,
        texts_id        TEXT NOT NULL,          -- of the harvest, or of the texts given
        run_id          TEXT,
        PRIMARY KEY (sae_id, feature, condition, texts, measure, settings_hash)
    )
    """,
    """
    CREATE TABLE logit_lens (                   -- a feature's direction through the final norm and the unembedding
        sae_id        TEXT NOT NULL,
        feature       INTEGER NOT NULL CHECK (feature >= 0),
        top_tokens    TEXT[] NOT NULL,          -- largest logit first
        top_logits    DOUBLE[] NOT NULL,
        bottom_tokens TEXT[] NOT NULL,          -- smallest logit first
        bottom_logits DOUBLE[] NOT NULL,
        PRIMARY KEY (sae_id, feature)
    )
    """,
    "CREATE SEQUENCE pool_order START 1",
    """
    CREATE TABLE pools (                        -- prompts in which several features were scored together
        pool_id       BIGINT PRIMARY KEY DEFAULT nextval('pool_order'),
        sae_id        TEXT NOT NULL,
        simulator     TEXT NOT NULL,
        settings_hash TEXT NOT NULL,            -- as in `scores`
        members       TEXT NOT NULL,            -- JSON: [feature, explanation_id, turn] of each
        run_id        TEXT NOT NULL,
        error         TEXT,                     -- class of what was wrong with the answer: its round is lost
        message       TEXT,
        tokens        BIGINT                    -- billed for a lost answer
    )
    """,
    """
    CREATE TABLE intruder_scores (              -- of features, without any explanation; never mixed with `scores`
        sae_id        TEXT NOT NULL,
        feature       INTEGER NOT NULL CHECK (feature >= 0),
        simulator     TEXT NOT NULL,
        value         DOUBLE,                   -- share of trials in which the text that does not belong was found
        low           DOUBLE,
        high          DOUBLE,
        chance        DOUBLE NOT NULL,          -- one over the number of texts
        n_trials      INTEGER NOT NULL,
        n_correct     INTEGER NOT NULL,
        tokens        BIGINT NOT NULL,
        reason        TEXT,                     -- why value is NULL
        run_id        TEXT NOT NULL,
        settings      TEXT NOT NULL,            -- JSON
        settings_hash TEXT NOT NULL,
        PRIMARY KEY (sae_id, feature, simulator, settings_hash)
    )
    """,
    "CREATE SEQUENCE call_order START 1",
    """
    CREATE TABLE llm_calls (                    -- the cache and the ledger in one
        call_id       BIGINT PRIMARY KEY DEFAULT nextval('call_order'),
        cache_key     TEXT NOT NULL,            -- hash of everything that can change the answer
        run_id        TEXT NOT NULL,
        stage         TEXT NOT NULL,
        sae_id        TEXT,
        feature       INTEGER,
        model         TEXT NOT NULL,
        endpoint      TEXT NOT NULL,
        prompt_hash   TEXT NOT NULL,            -- of the template
        request       TEXT NOT NULL,            -- JSON
        answer        TEXT,                     -- NULL: none came
        finish        TEXT,
        status        TEXT NOT NULL,            -- reserved, ok, failed, lost
        error         TEXT,
        reserved      BIGINT NOT NULL,          -- worst case in tokens, reserved while the call is under way
        input_tokens  BIGINT,
        output_tokens BIGINT,
        usage_source  TEXT,                     -- billed; estimated: nothing was said; floor: too little was
        price         DOUBLE,                   -- in US dollars; NULL without a price table
        seconds       DOUBLE,
        created_at    TIMESTAMP NOT NULL
    )
    """,
    "CREATE INDEX llm_calls_key ON llm_calls (cache_key)",
    """
    CREATE TABLE sae_aliases (                  -- names that catalogs give to SAEs which the store knows by another
        alias     TEXT PRIMARY KEY,
        sae_id    TEXT NOT NULL,
        proof     TEXT NOT NULL,                -- why both are one
        joined_at TIMESTAMP NOT NULL
    )
    """,
    """
    CREATE TABLE imports (                      -- catalogs that were brought in
        name        TEXT PRIMARY KEY,
        format      TEXT NOT NULL,
        sha256      TEXT NOT NULL,
        imported_at TIMESTAMP NOT NULL,
        report      TEXT NOT NULL               -- JSON: counts and faults by kind
    )
    """,
)

VIEWS = (
    """
    CREATE OR REPLACE VIEW headline_methods AS  -- by SAE, the one way of scoring whose scores stand in the catalog
    -- The best-founded one: most features with a chance line, then most features with a value, then the newer
    -- explanations, then known settings, then the one that was first. Never the one that ran last.
    WITH founded AS (
        SELECT c.sae_id, c.method, c.simulator, c.settings_hash,
               count(DISTINCT c.feature) FILTER (c.value IS NOT NULL AND c.chance IS NOT NULL) AS n_chance,
               count(DISTINCT c.feature) FILTER (c.value IS NOT NULL) AS n_scored,
               max(e.ordinal) FILTER (c.value IS NOT NULL) AS newest,
               c.settings_hash <> 'unknown' AS known, min(c.ordinal) AS first
        FROM scores c LEFT JOIN explanations e USING (explanation_id)
        GROUP BY c.sae_id, c.method, c.simulator, c.settings_hash
    )
    SELECT sae_id, method, simulator, settings_hash FROM founded
    QUALIFY row_number() OVER (
        PARTITION BY sae_id ORDER BY n_chance DESC, n_scored DESC, newest DESC NULLS LAST, known DESC, first) = 1
    """,
    """
    CREATE OR REPLACE VIEW headline_scores AS   -- one row per feature: of its newest explanation that is scored so
    SELECT c.* FROM scores c JOIN headline_methods USING (sae_id, method, simulator, settings_hash)
    JOIN explanations e USING (explanation_id)
    QUALIFY row_number() OVER (PARTITION BY c.sae_id, c.feature ORDER BY
        (c.value IS NULL), (e.text IS NULL), (e.lang = 'en') DESC, e.ordinal DESC) = 1
    """,
    """
    CREATE OR REPLACE VIEW shown_explanations AS -- one per feature: readable, scored, English, then newest first
    SELECT e.* FROM explanations e LEFT JOIN headline_scores h USING (explanation_id) WHERE e.error IS NULL
    QUALIFY row_number() OVER (PARTITION BY e.sae_id, e.feature ORDER BY
        (e.text IS NULL), (h.value IS NULL), (e.lang = 'en') DESC, e.ordinal DESC) = 1
    """,
    """
    CREATE OR REPLACE VIEW live_tags AS         -- what no person took back; severity 0: "the feature does not have it"
    SELECT t.sae_id, t.feature, t.tag, t.source, t.severity, t.rowid AS ordinal FROM tags t
    WHERE t.severity IS DISTINCT FROM 0 AND NOT EXISTS (
        SELECT 1 FROM tags p WHERE p.source = 'person' AND p.severity = 0
          AND p.sae_id = t.sae_id AND p.feature = t.feature AND p.tag = t.tag)
    """,
    """
    CREATE OR REPLACE VIEW headline_effects AS  -- by SAE, the one way of measuring whose effects stand in the catalog
    SELECT sae_id, settings_hash FROM effects GROUP BY sae_id, settings_hash
    QUALIFY row_number() OVER (
        PARTITION BY sae_id ORDER BY count(DISTINCT feature) DESC, max(n_texts) DESC, settings_hash) = 1
    """,
    """
    CREATE OR REPLACE VIEW feature_effects AS   -- one row per measured feature: is it shown to do something?
    -- On tokens that its own direction did not choose: what follows it in other texts, and its concept's words.
    SELECT sae_id, feature,
           CASE WHEN bool_or(q <= 0.1 AND gain_low > 0) THEN 'yes' WHEN bool_and(gain_high < 0) THEN 'no'
                ELSE 'not shown' END AS effect
    FROM effects JOIN headline_effects USING (sae_id, settings_hash)
    WHERE measure IN ('log_odds_followers', 'log_odds_key_words') AND value IS NOT NULL GROUP BY sae_id, feature
    """,
    """
    CREATE OR REPLACE VIEW catalog AS           -- one row per feature
    WITH tagged AS (
        SELECT sae_id, feature, list(DISTINCT tag ORDER BY tag) AS tags FROM live_tags GROUP BY sae_id, feature
    )
    SELECT
        f.sae_id,
        s.layer,
        f.feature AS "index",
        CASE WHEN e.masked THEN '***' ELSE e.text END AS explanation,
        coalesce(t.tags, []) AS tags,
        c.value AS score,
        c.low AS score_low,
        c.high AS score_high,
        c.chance AS chance_score,
        f.density,
        f.top_tokens,
        e.explainer,
        c.method AS score_method,
        c.simulator AS score_simulator,
        c.reason AS score_reason,
        c.lookup AS lookup_score,
        CASE WHEN c.lookup IS NULL THEN NULL WHEN c.gain_low > 0 THEN 'yes' WHEN c.gain_high < 0 THEN 'no'
             ELSE 'not shown' END AS beyond_lookup, -- whether the explanation knows more than a look-up
        d.effect                                -- whether the feature is shown to do something
    FROM features f
    JOIN saes s USING (sae_id)
    LEFT JOIN shown_explanations e USING (sae_id, feature)
    LEFT JOIN headline_scores c USING (explanation_id)
    LEFT JOIN tagged t ON t.sae_id = f.sae_id AND t.feature = f.feature
    LEFT JOIN feature_effects d ON d.sae_id = f.sae_id AND d.feature = f.feature
    """,
    """
    CREATE OR REPLACE VIEW ledger AS            -- what was asked of language models, and what it cost
    SELECT call_id, run_id, stage, sae_id, feature, model, endpoint, prompt_hash, status, error,
           input_tokens, output_tokens, input_tokens::HUGEINT + output_tokens AS tokens, usage_source, price, seconds,
           created_at
    FROM llm_calls
    """,
    """
    CREATE OR REPLACE VIEW activations AS       -- every stored nonzero, whatever its precision
    SELECT sae_key, feature, harvest_key, token,    -- token: n_ctx slots per window of the harvest
           token // n_ctx AS window_id, CAST(token % n_ctx AS INTEGER) AS position, value
    FROM (
        SELECT sae_key, feature, sort_key - CAST(feature AS BIGINT) * stride AS token, value FROM activations_f32
        UNION ALL
        SELECT a.sae_key, a.feature, a.sort_key - CAST(a.feature AS BIGINT) * a.stride AS token,
               CAST((a.code + 0.5) / 255.5 * s.maximum AS FLOAT) AS value
        FROM activations_u8 a JOIN activation_scales s USING (sae_key, feature)
    ) JOIN harvest_saes USING (sae_key) JOIN harvests USING (harvest_key)
    """,
    """
    CREATE OR REPLACE VIEW active_windows AS    -- windows in which a feature fires, without their text
    SELECT sae_key, feature, harvest_key, window_id, max(value) AS maximum, list_sort(list(position)) AS positions,
           list_select(list(value), list_grade_up(list(position))) AS activations
    FROM activations GROUP BY sae_key, feature, harvest_key, window_id
    """,
    """
    CREATE OR REPLACE VIEW exemplars AS         -- the same for people, with the text
    SELECT s.sae_id, a.feature AS "index", a.window_id, w.document_id, w.split, a.maximum, w.tokens, a.positions,
           a.activations
    FROM active_windows a JOIN saes s USING (sae_key) JOIN windows w USING (harvest_key, window_id)
    """,
)
