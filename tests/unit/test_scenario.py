from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from harness import scenario
from harness.errors import InputError
from harness.model import Step

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
OPEN = """
name = "x"
locustfile = "locustfiles/x.py"
load = "open"
users = 9
rate_rps = 50
duration_s = 60
thresholds = ["p95_ms < 200", "dropped_arrival_ratio <= 0"]
"""
STEPS = OPEN.replace(
    "rate_rps = 50\nduration_s = 60",
    'arrivals = "poisson"\nsteps = [{ duration_s = 10, rate_rps = 5 }, { duration_s = 20, rate_rps = 9.5 }]',
)


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


def test_nine_scenarios_are_shipped():
    names = ["benchmark", "dashboard", "json2", "k6_stages", "login_storm", "open", "quick", "steps", "sustained"]
    assert [path.stem for path in SCENARIOS] == names


def test_sustained_is_as_specified():
    sustained = scenario.parse(next(p for p in SCENARIOS if p.stem == "sustained").read_text(), "sustained")
    assert (sustained.users, sustained.duration_s, sustained.think_time_s, sustained.warmup_s) == (50, 300, 1, 120)
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
    assert (parsed.pacing_s, parsed.check_one_in, parsed.abort_window_s, parsed.may_lose_workers) == (
        None,
        200,
        None,
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
        ("load", '"opne"', "load: 'opne' is no load model; write \"closed\""),
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
        ("stages", "[]", 'stages: unused while load = "closed"; remove it or write load = "stages"'),
        ("steps", "[]", 'steps: unused while load = "closed"; remove it or write load = "open"'),
        ("rate_rps", "5", 'rate_rps: unused while load = "closed"; remove it or write load = "open"'),
        ("arrivals", '"poisson"', 'arrivals: unused while load = "closed"; remove it or write load = "open"'),
        ("pacing_s", "0", "pacing_s: 0 is too small (must be above 0); write seconds as a number, such as 30"),
        ("check_one_in", "0", "check_one_in: 0 is too small (must be at least 1); write how many replies"),
        ("check_one_in", "1.5", "check_one_in: 1.5 is not a whole number"),
        ("abort_window_s", "0", "abort_window_s: 0 is too small (must be above 0); write seconds"),
        ("may_lose_workers", '"no"', "may_lose_workers: 'no' is not true or false; write true or false"),
        (
            "think_time_s",
            "0\nmay_lose_workers = true",
            "may_lose_workers: only think_time_s above 0 bounds what is lost",
        ),
        (
            "thresholds",
            '["buffer_hit_pct > 95", "requests > 5"]\nabort_window_s = 30',
            "abort_window_s: no limit is on samples, so that none can break; add one, such as",
        ),
        (
            "thresholds",
            '["late_arrival_ratio < 0.01"]',
            "thresholds: 'late_arrival_ratio < 0.01' judges arrivals, and only load = \"open\" has a schedule of them",
        ),
        # a limit that cannot be read may be the one that is missing
        ("thresholds", '["p95 < 1"]\nabort_window_s = 30', '"p95" is no metric'),
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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate_rps = 50", "", "rate_rps: missing; write arrivals per second, such as 50"),
        ("rate_rps = 50", "rate_rps = 0", "rate_rps: 0 is too small (must be above 0)"),
        ("users = 9", "", "users: missing; write a whole number of users"),
        ("duration_s = 60", "", "duration_s: missing; write seconds"),
        ("users = 9", "users = 9\nthink_time_s = 1", 'think_time_s: unused while load = "open"; remove it or write'),
        ("users = 9", "users = 9\npacing_s = 1", 'pacing_s: unused while load = "open"; remove it or write load = "cl'),
        ("users = 9", "users = 9\nstages = []", 'stages: unused while load = "open"; remove it'),
        ("users = 9", 'users = 9\narrivals = "random"', "arrivals: 'random' is no way to arrive; write \"constant\""),
        ("users = 9", "users = 9\narrivals = 3", "arrivals: 3 is not text; write"),
        ("rate_rps = 50\nduration_s = 60", "steps = []", "steps: empty; write [[steps]] tables with duration_s and"),
        ("rate_rps = 50\nduration_s = 60", "steps = [7]", "steps[1]: 7 is not a table; write [[steps]]"),
        (
            "rate_rps = 50\nduration_s = 60",
            "steps = [{ duration_s = 5, rate_rps = 0 }]",
            "steps[1].rate_rps: 0 is too small (must be above 0); write arrivals per second",
        ),
        (
            "rate_rps = 50\nduration_s = 60",
            "steps = [{ duration_s = 5, rate_rps = 1, users = 3 }]",
            "steps[1].users: unknown key; known are duration_s, rate_rps",
        ),
        ("duration_s = 60", "steps = [{ duration_s = 5, rate_rps = 1 }]", "rate_rps: given beside steps; keep one of"),
        ("rate_rps = 50", "steps = [{ duration_s = 5, rate_rps = 1 }]", "duration_s: follows from the steps; remove"),
    ],
)
def test_faults_of_an_open_load(old, new, said):
    text = faults(OPEN.replace(old, new))
    assert text.startswith("s.toml: 1 fault\n")
    assert said in text


def test_think_time_and_pacing_exclude_each_other():
    said = "pacing_s: given beside think_time_s; keep the one that spaces the requests"
    for text in (CLOSED, STAGES):
        assert said in faults(f"think_time_s = 1\npacing_s = 30\n{text}")
        paced = scenario.parse(f"pacing_s = 30\n{text}", "s.toml")
        assert (paced.pacing_s, paced.think_time_s) == (30, 0)


def test_an_open_load_has_steps():
    one = scenario.parse(OPEN, "s.toml")
    assert (one.load, one.arrivals, one.users, one.think_time_s) == ("open", "constant", 9, 0)
    assert (one.steps, one.duration_s, one.warmup_s) == ((Step(60.0, 50.0),), 60.0, 10.0)
    several = scenario.parse(STEPS, "s.toml")
    assert several.steps == (Step(10.0, 5.0), Step(20.0, 9.5))
    assert (several.duration_s, several.arrivals) == (30.0, "poisson")


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
        (STEPS, {"duration_s": 5.0}, "duration follows its steps; edit the steps"),
        (CLOSED, {"abort_window_s": 0.0}, "abort window: 0.0 s holds no request; give more than 0 s"),
        (CLOSED, {"abort_window_s": math.inf}, "abort window: inf s"),
        (CLOSED, {"thresholds": ["dropped_arrival_ratio <= 0"]}, "judges arrivals, and only load = "),
        (STAGES, {"abort_window_s": 5.0}, "no limit is on samples"),
    ],
)
def test_override_faults(text, changes, said):
    with pytest.raises(InputError, match=said):
        scenario.override(scenario.parse(text, "s.toml"), **changes)


def test_override_of_an_open_load():
    one = scenario.override(scenario.parse(OPEN, "s.toml"), users=3, duration_s=5.0, abort_window_s=2.0)
    assert (one.users, one.duration_s, one.steps, one.abort_window_s) == (3, 5.0, (Step(5.0, 50.0),), 2.0)
    several = scenario.parse(STEPS, "s.toml")
    assert scenario.override(several, users=3) == dataclasses.replace(several, users=3)
    closed = scenario.override(scenario.parse(CLOSED, "s.toml"), abort_window_s=30.0)
    # what the file says stays
    assert scenario.override(closed).abort_window_s == 30


def test_the_scenario_of_an_older_run_still_reads():
    parsed = scenario.parse(CLOSED, "s.toml")
    new = {"pacing_s", "arrivals", "steps", "check_one_in", "abort_window_s", "may_lose_workers"}
    older = {key: value for key, value in scenario.to_json(parsed).items() if key not in new}
    assert len(older) == len(scenario.to_json(parsed)) - len(new)
    assert scenario.from_json(older) == parsed


def test_damaged_json_is_named():
    with pytest.raises(InputError, match="scenario: users: "):
        scenario.from_json(scenario.to_json(scenario.parse(CLOSED, "s.toml")) | {"users": "many"})
