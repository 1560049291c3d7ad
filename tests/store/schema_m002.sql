-- The store's tables and views before m003_names, as its makers wrote them.

CREATE TABLE runs (
run_id TEXT PRIMARY KEY,
stage TEXT NOT NULL,
settings TEXT NOT NULL,
version TEXT NOT NULL,
started_at TIMESTAMP NOT NULL,
finished_at TIMESTAMP,
seconds DOUBLE
);

CREATE TABLE subject_models (
model_id TEXT PRIMARY KEY,
fingerprint TEXT,
d_model INTEGER,
n_layers INTEGER
);

CREATE SEQUENCE sae_keys START 1;

CREATE TABLE saes (
sae_id TEXT PRIMARY KEY,
sae_key INTEGER NOT NULL UNIQUE,
model_id TEXT NOT NULL,
layer INTEGER,
hook TEXT NOT NULL,
d_in INTEGER,
d_sae INTEGER,
architecture TEXT,
k INTEGER,
sha256 TEXT,
source TEXT NOT NULL
);

CREATE TABLE concepts (
concept_id TEXT PRIMARY KEY,
domain TEXT NOT NULL,
leaf TEXT,
name TEXT NOT NULL,
definition TEXT NOT NULL
);

CREATE TABLE concept_pairs (
pair_id TEXT PRIMARY KEY,
concept_id TEXT NOT NULL,
lang TEXT NOT NULL,
form TEXT NOT NULL,
pos TEXT NOT NULL,
neg TEXT NOT NULL
);

CREATE TABLE selections (
selection_id TEXT NOT NULL,
sae_id TEXT NOT NULL,
concept_set TEXT NOT NULL,
settings TEXT NOT NULL,
l0 DOUBLE,
fvu DOUBLE,
seconds DOUBLE NOT NULL,
PRIMARY KEY (selection_id)
);

CREATE TABLE sae_scores (
selection_id TEXT NOT NULL,
sae_id TEXT NOT NULL,
scope TEXT NOT NULL CHECK (scope IN ('concept', 'domain', 'all')),
scope_id TEXT NOT NULL,
measure TEXT NOT NULL,
value DOUBLE,
low DOUBLE,
high DOUBLE,
null_value DOUBLE,
above_null DOUBLE,
n_pairs INTEGER NOT NULL,
reason TEXT,
PRIMARY KEY (selection_id, scope, scope_id, measure)
);

CREATE TABLE feature_concepts (
selection_id TEXT NOT NULL,
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL CHECK (feature >= 0),
concept_id TEXT NOT NULL,
frequency DOUBLE NOT NULL,
swapped DOUBLE NOT NULL,
n_pairs INTEGER NOT NULL,
candidate BOOLEAN NOT NULL
);

CREATE SEQUENCE harvest_keys START 1;

CREATE TABLE near_features (
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL,
other INTEGER NOT NULL,
cosine DOUBLE NOT NULL,
PRIMARY KEY (sae_id, feature, other)
);

CREATE TABLE harvests (
harvest_key INTEGER PRIMARY KEY,
harvest_id TEXT NOT NULL UNIQUE,
model_id TEXT NOT NULL,
fingerprint TEXT NOT NULL,
settings TEXT NOT NULL,
n_ctx INTEGER NOT NULL,
finished BOOLEAN NOT NULL
);

CREATE TABLE harvest_saes (
sae_key INTEGER PRIMARY KEY,
harvest_key INTEGER NOT NULL
);

CREATE TABLE shards (
harvest_key INTEGER NOT NULL,
shard INTEGER NOT NULL,
content TEXT NOT NULL,
n_documents INTEGER NOT NULL,
n_windows BIGINT NOT NULL,
n_tokens BIGINT NOT NULL,
PRIMARY KEY (harvest_key, shard)
);

CREATE TABLE documents (
harvest_key INTEGER NOT NULL,
document_id TEXT NOT NULL,
source TEXT NOT NULL,
split TEXT NOT NULL CHECK (split IN ('train', 'calibration', 'test')),
n_tokens INTEGER NOT NULL,
whole BOOLEAN NOT NULL,
text TEXT NOT NULL,
PRIMARY KEY (harvest_key, document_id)
);

CREATE TABLE windows (
harvest_key INTEGER NOT NULL,
window_id BIGINT NOT NULL,
document_id TEXT NOT NULL,
start INTEGER NOT NULL,
split TEXT NOT NULL,
token_ids INTEGER[] NOT NULL,
tokens TEXT[] NOT NULL
);

CREATE TABLE activations_f32 (
sae_key INTEGER NOT NULL,
feature INTEGER NOT NULL,
place BIGINT NOT NULL,
stride BIGINT NOT NULL,
value FLOAT NOT NULL
);

CREATE TABLE activations_u8 (
sae_key INTEGER NOT NULL,
feature INTEGER NOT NULL,
place BIGINT NOT NULL,
stride BIGINT NOT NULL,
code UTINYINT NOT NULL
);

CREATE TABLE activation_scales (
sae_key INTEGER NOT NULL,
feature INTEGER NOT NULL,
maximum FLOAT NOT NULL
);

CREATE TABLE activation_bins (
sae_key INTEGER NOT NULL,
feature INTEGER NOT NULL,
bin INTEGER NOT NULL,
n BIGINT NOT NULL,
total DOUBLE NOT NULL,
maximum FLOAT NOT NULL
);

CREATE TABLE features (
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL CHECK (feature >= 0),
harvest_key INTEGER,
n_tokens BIGINT,
n_active BIGINT,
density DOUBLE,
mean DOUBLE,
maximum DOUBLE,
q90 DOUBLE,
q99 DOUBLE,
q999 DOUBLE,
top_tokens TEXT[],
PRIMARY KEY (sae_id, feature)
);

CREATE SEQUENCE explanation_order START 1;

CREATE TABLE explanations (
explanation_id TEXT PRIMARY KEY,
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL CHECK (feature >= 0),
text TEXT,
masked BOOLEAN NOT NULL DEFAULT false,
lang TEXT NOT NULL DEFAULT 'en',
explainer TEXT NOT NULL,
prompt_hash TEXT,
origin TEXT NOT NULL,
confidence DOUBLE,
error TEXT,
message TEXT,
ordinal BIGINT NOT NULL DEFAULT nextval('explanation_order')
);

CREATE TABLE tags (
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL,
tag TEXT NOT NULL,
source TEXT NOT NULL,
severity INTEGER,
PRIMARY KEY (sae_id, feature, tag, source)
);

CREATE SEQUENCE score_order START 1;

CREATE TABLE scores (
explanation_id TEXT NOT NULL,
sae_id TEXT NOT NULL,
feature INTEGER NOT NULL,
method TEXT NOT NULL,
simulator TEXT NOT NULL,
prompt_hash TEXT,
value DOUBLE,
low DOUBLE,
high DOUBLE,
chance DOUBLE,
auc DOUBLE,
balanced_accuracy DOUBLE,
n_units INTEGER,
n_windows INTEGER,
reason TEXT,
error TEXT,
tokens BIGINT,
ordinal BIGINT NOT NULL DEFAULT nextval('score_order'),
PRIMARY KEY (explanation_id, method, simulator)
);

CREATE SEQUENCE call_order START 1;

CREATE TABLE llm_calls (
call_id BIGINT PRIMARY KEY DEFAULT nextval('call_order'),
cache_key TEXT NOT NULL,
run_id TEXT NOT NULL,
stage TEXT NOT NULL,
sae_id TEXT,
feature INTEGER,
model TEXT NOT NULL,
endpoint TEXT NOT NULL,
prompt_hash TEXT NOT NULL,
request TEXT NOT NULL,
answer TEXT,
finish TEXT,
status TEXT NOT NULL,
error TEXT,
reserved BIGINT NOT NULL,
input_tokens BIGINT,
output_tokens BIGINT,
usage_source TEXT,
price DOUBLE,
seconds DOUBLE,
created_at TIMESTAMP NOT NULL
);

CREATE INDEX llm_calls_key ON llm_calls (cache_key);

CREATE TABLE imports (
name TEXT PRIMARY KEY,
format TEXT NOT NULL,
sha256 TEXT NOT NULL,
imported_at TIMESTAMP NOT NULL,
report TEXT NOT NULL
);

CREATE VIEW catalog AS
WITH explained AS (
SELECT * FROM explanations WHERE error IS NULL
QUALIFY row_number() OVER (
PARTITION BY sae_id, feature ORDER BY (text IS NULL), (lang = 'en') DESC, ordinal DESC) = 1
), scored AS (
SELECT * FROM scores
QUALIFY row_number() OVER (PARTITION BY explanation_id ORDER BY (value IS NULL), ordinal DESC) = 1
), tagged AS (
SELECT sae_id, feature, list(DISTINCT tag ORDER BY tag) AS tags
FROM tags ANTI JOIN (SELECT * FROM tags WHERE source = 'person' AND severity = 0) AS rejected
USING (sae_id, feature, tag)
GROUP BY sae_id, feature
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
c.reason AS score_reason
FROM features f
JOIN saes s USING (sae_id)
LEFT JOIN explained e USING (sae_id, feature)
LEFT JOIN scored c USING (explanation_id)
LEFT JOIN tagged t ON t.sae_id = f.sae_id AND t.feature = f.feature;

CREATE VIEW ledger AS
SELECT call_id, run_id, stage, sae_id, feature, model, endpoint, prompt_hash, status, error,
input_tokens, output_tokens, input_tokens + output_tokens AS tokens, usage_source, price, seconds,
created_at
FROM llm_calls;

CREATE VIEW activations AS
SELECT sae_key, feature, place - CAST(feature AS BIGINT) * stride AS token, value FROM activations_f32
UNION ALL
SELECT a.sae_key, a.feature, a.place - CAST(a.feature AS BIGINT) * a.stride AS token,
CAST((a.code + 0.5) / 255.5 * s.maximum AS FLOAT) AS value
FROM activations_u8 a JOIN activation_scales s USING (sae_key, feature);

CREATE VIEW exemplars AS
WITH active AS (
SELECT a.sae_key, a.feature, h.harvest_key, a.token // h.n_ctx AS window_id, max(a.value) AS maximum,
list(CAST(a.token % h.n_ctx AS INTEGER)) AS places, list(a.value) AS found
FROM activations a JOIN harvest_saes USING (sae_key) JOIN harvests h USING (harvest_key)
GROUP BY a.sae_key, a.feature, h.harvest_key, a.token // h.n_ctx
)
SELECT s.sae_id, a.feature AS "index", a.window_id, w.document_id, w.split, a.maximum, w.tokens,
list_sort(a.places) AS positions, list_select(a.found, list_grade_up(a.places)) AS activations
FROM active a JOIN saes s USING (sae_key) JOIN windows w USING (harvest_key, window_id);

CREATE TABLE schema_version (applied TEXT NOT NULL);

INSERT INTO schema_version VALUES ('m001_tables_and_views'), ('m002_places');
