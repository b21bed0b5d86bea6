from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import scenario
from harness.errors import InputError

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.toml"))
CLOSED = """
name = "x"
locustfile = "locustfiles/x.py"
users = 5
duration_s = 60
thresholds = ["p95_ms < 200", "p95_ms[*] < 200", { limit = "redis_hit_pct > 85", profiles = ["day40"] }]
"""
STAGES = """
name = "x"
locustfile = "locustfiles/x.py"
load = "stages"
thresholds = []
stages = [{ duration_s = 60, users = 10 }, { duration_s = 20, users = 50 }, { duration_s = 60, users = 0 }]
"""


def faults(text):
    with pytest.raises(InputError) as fault:
        scenario.parse(text, "s.toml")
    return str(fault.value)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_shipped_scenarios(path):
    parsed = scenario.parse(path.read_text(), str(path))
    assert parsed.name == path.stem
    assert parsed.description
    assert scenario.from_json(json.loads(json.dumps(scenario.to_json(parsed)))) == parsed


def test_four_scenarios_are_shipped():
    assert [path.stem for path in SCENARIOS] == ["k6_stages", "login_storm", "quick", "sustained"]


def test_sustained_is_as_specified():
    sustained = scenario.parse(next(p for p in SCENARIOS if p.stem == "sustained").read_text(), "sustained")
    assert (sustained.users, sustained.duration_s, sustained.think_time_s, sustained.warmup_s) == (50, 300, 1, 10)
    limits = {limit.text: limit.profiles for limit in sustained.thresholds}
    assert limits["p95_ms < 200"] == limits["p95_ms[*] < 200"] == ()
    assert limits["pool_utilisation_pct < 70"] == limits["redis_hit_pct > 85"] == ("day40",)


def test_defaults():
    parsed = scenario.parse(CLOSED, "s.toml")
    assert (parsed.load, parsed.think_time_s, parsed.warmup_s, parsed.seed, parsed.strict) == (
        "closed",
        1,
        10,
        1,
        False,
    )
    assert parsed.description == ""
    assert isinstance(parsed.duration_s, float)


def test_stages_decide_users_rate_and_duration():
    parsed = scenario.parse(STAGES, "s.toml")
    assert (parsed.users, parsed.spawn_rate_per_s, parsed.warmup_s, parsed.duration_s) == (50, 2.0, 0, 140)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("users", "0", "users: 0 is too small (must be at least 1); write a whole number"),
        ("users", "true", "users: True is not a whole number"),
        ("users", "5.0", "users: 5.0 is not a whole number"),
        ("duration_s", '"5m"', "duration_s: '5m' is not a number; write seconds as a number, such as 300"),
        ("duration_s", "0", "duration_s: 0 is too small (must be above 0)"),
        ("duration_s", "inf", "duration_s: inf is not finite"),
        ("think_time_s", "nan", "think_time_s: nan is not finite"),
        ("think_time_s", "-1", "think_time_s: -1 is too small (must be at least 0)"),
        ("strict", "1", "strict: 1 is not true or false"),
        ("load", '"open"', "load: 'open' is no load model; write \"closed\""),
        ("load", "3", "load: 3 is not text"),
        ("name", '"a/b"', "name: 'a/b' cannot name a folder"),
        ("locustfile", '"../x.py"', "locustfile: '../x.py' is not a .py file of the checkout"),
        ("locustfile", '"/x.py"', "is not a .py file of the checkout"),
        ("usres", "5", 'usres: unknown key; did you mean "users"?'),
        ("zzzz", "5", "zzzz: unknown key; known are name, "),
        ("thresholds", '"p95_ms < 1"', "thresholds: 'p95_ms < 1' is not a list"),
        ("thresholds", '["p95 < 1"]', "thresholds[1]: threshold 'p95 < 1': \"p95\" is no metric; did you mean"),
        ("thresholds", "[5]", "thresholds[1]: 5 is no limit; write"),
        ("thresholds", '[{ limit = "p95_ms < 1", profile = [] }]', "is no limit"),
        ("thresholds", '[{ limit = "p95_ms < 1", profiles = ["day30"] }]', "thresholds[1].profiles: ['day30'] is no"),
        ("thresholds", '["p95_ms < 1", "p95_ms < 1"]', "thresholds[2]: 'p95_ms < 1' is written twice"),
        ("stages", "[]", 'stages: unused while load = "closed"'),
    ],
)
def test_faults_have_key_value_and_remedy(key, value, said):
    lines = [line for line in CLOSED.splitlines() if not line.startswith(f"{key} =")]
    text = faults("\n".join([*lines, f"{key} = {value}"]))
    assert text.startswith("s.toml: 1 fault\n")
    assert said in text


@pytest.mark.parametrize("key", ["name", "locustfile", "users", "duration_s", "thresholds"])
def test_what_must_be_there(key):
    text = "\n".join(line for line in CLOSED.splitlines() if not line.startswith(f"{key} ="))
    assert f"{key}: missing; " in faults(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("load =", "users = 5\nload =", "users: follows from the stages"),
        ("duration_s = 20", "duration_s = 0", "stages[2].duration_s: 0 is too small"),
        ("users = 50", "user = 50", 'stages[2].user: unknown key; did you mean "users"?'),
        ("users = 50", "users = -1", "stages[2].users: -1 is too small"),
        ("{ duration_s = 60, users = 0 }", "7", "stages[3]: 7 is not a table"),
        ("stages = [", "#", 'stages: missing while load = "stages"'),
        ("users = 10 }, { duration_s = 20, users = 50 }", "users = 0 }", "stages: none has users"),
    ],
)
def test_faults_of_stages(old, new, said):
    assert said in faults(STAGES.replace(old, new))


def test_all_faults_at_once():
    text = faults('nmae = "x"\nusers = 0\nduration_s = -1\nthresholds = ["p95 < 1", "p95_ms < x"]')
    assert text.startswith("s.toml: 7 faults\n")
    keys = ["nmae", "name", "locustfile", "users", "duration_s", "thresholds[1]", "thresholds[2]"]
    assert [line.strip().split(":")[0] for line in text.splitlines()[1:]] == keys


def test_broken_toml_names_the_place():
    assert "s.toml: not valid TOML: " in faults("name = ")
    assert "line 2" in faults("users = 5\nname = = 3\n")


def test_override_replaces_the_same_metric_and_adds_others():
    parsed = scenario.parse(CLOSED, "s.toml")
    changed = scenario.override(parsed, 7, 30.0, ["p95_ms < 300", "p95_ms[*] < 400", "requests > 5"])
    assert (changed.users, changed.duration_s) == (7, 30)
    texts = [limit.text for limit in changed.thresholds]
    assert texts == ["redis_hit_pct > 85", "p95_ms < 300", "p95_ms[*] < 400", "requests > 5"]
    assert scenario.override(parsed) == parsed


def test_override_keeps_the_profiles_of_what_it_replaces():
    changed = scenario.override(scenario.parse(CLOSED, "s.toml"), thresholds=["redis_hit_pct > 50"])
    assert changed.thresholds[-1].profiles == ("day40",)


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        (CLOSED, {"users": 0}, "users: 0 is too few"),
        (CLOSED, {"duration_s": 0.0}, "duration: 0.0 s is no steady state"),
        (CLOSED, {"thresholds": ["p95 < 1"]}, '"p95" is no metric'),
        (STAGES, {"users": 5}, "follow its stages"),
        (STAGES, {"duration_s": 5.0}, "follow its stages"),
    ],
)
def test_override_faults(text, changes, said):
    with pytest.raises(InputError, match=said):
        scenario.override(scenario.parse(text, "s.toml"), **changes)


def test_damaged_json_is_named():
    with pytest.raises(InputError, match="scenario: users: "):
        scenario.from_json(scenario.to_json(scenario.parse(CLOSED, "s.toml")) | {"users": "many"})
