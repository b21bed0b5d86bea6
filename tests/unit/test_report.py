"""report: golden pages, and what every page keeps: nothing blank, nothing from outside unescaped, nothing to load."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import built_plans
import built_results as built
import pytest

from harness import compare, report
from harness.model import PROFILES, Benchmark, Estimate, QueryPlans, RunResult, SlowStatement
from harness.threshold import evaluate

DATA = Path(__file__).parent.parent / "data"
VOID = {"br", "meta", "use"}
DIGEST = "c0ffee" * 10 + "beef"
HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """The page's tags, checked for balance while it is read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.empty_cells = 0
        self._cell_starts_at = 0
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self._cell_starts_at = len(self.text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> was never opened"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"
        if tag in ("td", "th") and not "".join(self.text[self._cell_starts_at :]).strip():
            self.empty_cells += 1

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def empty_benchmark() -> Benchmark:
    return built.benchmark(built.without_data("day31"), built.without_data("day40"))


def hostile_run() -> RunResult:
    """Every text that comes from outside, as an attacker would write it."""
    run = built.result("day40")
    endpoints = tuple(replace(stats, endpoint=f"{HOSTILE} {stats.endpoint}") for stats in run.summary.endpoints)
    delta = run.servers
    assert run.plans is not None
    hostile_plan = replace(
        run.plans.critical[0],
        scans=tuple(replace(scan, table=HOSTILE, indexes=(HOSTILE,)) for scan in run.plans.critical[0].scans),
        sequential=(HOSTILE,),
        findings=(HOSTILE,),
        text=HOSTILE,
    )
    hostile_plans = QueryPlans(
        critical=(replace(hostile_plan, name=HOSTILE),),
        missing={f"missing {HOSTILE}": HOSTILE},
        statements=tuple(
            replace(run.plans.statements[0], role=HOSTILE, name=None, query=HOSTILE, plan=one, reason=HOSTILE)
            for one in (hostile_plan, None)
        ),
    )
    hostile_statements = tuple(
        replace(s, role=HOSTILE, name=None, query=f"SELECT '{HOSTILE}'") for s in delta.statements
    )
    hostile_slow = SlowStatement(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), 1, 101.0, 101.0, {HOSTILE: HOSTILE})
    return replace(
        run,
        meta=replace(
            run.meta,
            run_id=HOSTILE,
            state="invalid",
            reasons=(HOSTILE,),
            aborted=HOSTILE,
            counts={
                **built.COUNTS,
                "wrong": {HOSTILE: 1},
                **{key: {HOSTILE: next(iter(built.COUNTS[key].values()))} for key in ("connections", "workers")},
                "generator": {HOSTILE: {}},
            },
            host={HOSTILE: HOSTILE},
            versions={HOSTILE: HOSTILE},
            herd={HOSTILE: HOSTILE},
            started_at=HOSTILE,
            scenario=replace(run.meta.scenario, name=HOSTILE),
        ),
        summary=replace(
            run.summary, endpoints=endpoints, pooled=replace(run.summary.pooled, outcomes={"ok": 1, HOSTILE: 2})
        ),
        servers=replace(
            delta,
            warnings=(HOSTILE,),
            statements=hostile_statements,
            tables=tuple(replace(table, table=HOSTILE) for table in delta.tables),
            pools=tuple(replace(pool, alias=HOSTILE) for pool in delta.pools),
            process_cpu_s={HOSTILE: 1.0},
        ),
        settings={HOSTILE: HOSTILE, "work_mem": HOSTILE},
        probes={f"cpu_pct.{HOSTILE}": ((0.0, 1.0), (1.0, 2.0))},
        verdicts=tuple(replace(verdict, endpoint=HOSTILE) for verdict in run.verdicts),
        warnings=(HOSTILE,),
        slow=replace(built.slow("day31"), rows=(hostile_slow,)),
        plans=hostile_plans,
    )


def hostile_benchmark() -> Benchmark:
    run = hostile_run()
    day31 = replace(run, meta=replace(run.meta, profile="day31"), settings={})
    return replace(
        built.benchmark(day31, run, [day31, run]),
        benchmark_id=HOSTILE,
        missing_in_day40=(HOSTILE,),
        conclusion=HOSTILE,
    )


PAGES = {
    "benchmark": lambda: report.render_benchmark(built.quick_benchmark()),
    "benchmark-tested": lambda: report.render_benchmark(built.tested_benchmark(), DIGEST),
    "run": lambda: report.render_run(built.result("day40"), DIGEST),
    "run-day31": lambda: report.render_run(built.result("day31")),
    "run-open": lambda: report.render_run(built.open_load("day40")),
    "benchmark-open": lambda: report.render_benchmark(
        built.benchmark(built.open_load("day31"), built.open_load("day40"), [built.open_load("day31")])
    ),
    "empty-benchmark": lambda: report.render_benchmark(empty_benchmark()),
    "empty-run": lambda: report.render_run(built.without_data("day31")),
    "plans": lambda: report.render_plans(2550, [(profile, built_plans.plans(profile)) for profile in PROFILES]),
    "hostile-benchmark": lambda: report.render_benchmark(hostile_benchmark()),
    "hostile-run": lambda: report.render_run(hostile_run()),
}


@functools.cache
def rendered(name: str) -> str:
    return PAGES[name]()


@pytest.fixture(params=PAGES)
def html(request: pytest.FixtureRequest) -> str:
    return rendered(request.param)


def without_pictures(html: str) -> str:
    """Pictures follow the drawing library's version; test_charts looks at them."""
    return re.sub(r"<svg .*?</svg>", "<svg/>", html, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["benchmark", "benchmark-tested", "run"])
def test_page_is_the_golden_one(name, request):
    golden = DATA / f"{name}.golden.html"
    html = rendered(name)
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(html, encoding="utf-8")
    assert without_pictures(html) == without_pictures(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_the_same_values_give_the_same_bytes(name):
    assert PAGES[name]() == rendered(name)


def test_page_is_well_formed_and_its_parts_find_each_other(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"].removeprefix("#") for attributes in page.all("a")]
    named = [one for _, attributes in page.tags for one in (attributes.get("aria-labelledby") or "").split()]
    assert set(targets) | set(named) <= set(ids)


def test_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|//[a-z0-9.-]+\.[a-z]{2,}/|@import|url\((?!#)", html, flags=re.IGNORECASE)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_is_blank_and_no_python_value_shows(html):
    page = Page(html)
    # cells to write into (four people, three cells), and the pooled row's change, which the effects show
    assert page.empty_cells in (0, 12, 13)
    text = " ".join(page.text)
    assert not re.search(r"\bNone\b|\bnan\b|Undefined|\binf\b|Estimate\(", text)


def test_tables_can_be_followed_by_ear(html):
    page = Page(html)
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolling)


@pytest.mark.parametrize("name", ["hostile-benchmark", "hostile-run"])
def test_everything_from_outside_is_escaped(name):
    html = rendered(name)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 30


def test_any_script_is_shown_as_it_is_written():
    run = built.result("day40")
    bengali = "odoo গরু [দুধ]"
    endpoints = (replace(run.summary.endpoints[0], endpoint=bengali), *run.summary.endpoints[1:])
    assert f'<th scope="row">{bengali}</th>' in report.render_run(
        replace(run, summary=replace(run.summary, endpoints=endpoints))
    )


@pytest.mark.parametrize("name", ["benchmark", "empty-benchmark"])
def test_every_row_of_the_specification_is_there_whatever_was_measured(name):
    html = rendered(name)
    for row in (
        "farm.animal lookup by tag",
        "farm.milk_production daily report",
        "farm.health_record search",
        "Buffer cache hit ratio",
        "Redis cache hit ratio",
        "Sequential scan ratio (farm schema)",
        "Connection pool utilisation at 50 users",
        "Query response time (95th percentile)",
        "Backup RPO",
        "Backup RTO",
        "Failover without data loss",
        "50 users sustained for 5 min",
        "Grafana dashboard",
    ):
        assert f'<th scope="row">{row}' in html
    for requirement in ("C-001", "C-003", "C-009", "C-010", "C-011", "C-012", "C-014", "C-015"):
        assert requirement in html


def test_without_data_nothing_is_met():
    html = rendered("empty-benchmark")
    assert 'class="status pass"' not in html
    assert "Day 40 fails: 0 of 7 limits met, 7 without data." in html
    assert "Specification&#39;s targets (§5.2): 0 of 7 met." in html


def first_screen(name: str) -> str:
    html = rendered(name)
    return re.sub(r"\s+", " ", html[html.index('<div class="first">') : html.index("<nav")])


def test_first_screen_answers_the_three_questions():
    first = first_screen("benchmark")
    assert '<p class="badge fail">Fail</p>' in first
    assert "Day 40 fails: 9 of 10 limits met, 1 without data." in first
    assert "No data: p95_ms[*] &lt; 200 for odoo farm.milk_production.create" in first
    assert "3 of 3 endpoints have a lower p95 on Day 40, 0 do not." in first
    assert f"Slowest on Day 40: {built.LIST}, p95 97.02 ms." in first
    assert "All 4 runs are valid" in first
    assert "With 2 pairs no effect can be told from noise." in first
    assert "noise floor" not in first
    assert '<a href="#doubts">2 doubts</a>: Host, Load generator.' in first
    assert "2 cores and 8.0 GiB are less than the 8 cores and 32 GB" in rendered("benchmark")
    assert "Cannot say: the pairs of runs were not tested." in rendered("benchmark")


def test_first_screen_says_what_got_faster_and_by_how_much():
    first = first_screen("benchmark-tested")
    verdicts = "of 4 endpoints 1 improved, 1 equivalent, 1 regressed, 1 inconclusive."
    assert f"p95: all endpoints −23 % [−26, −20], improved; {verdicts}" in first
    assert f"Most improved: {built.TAG}, p50 −40 % [−43, −37]." in first
    assert f"Regressed: {built.LIST}, p50 +16 % [+14, +20], p95 +12 % [+9.5, +16]." in first
    assert "Changes beyond 5.0 % in p95, 5.0 % in p50 count: this machine" in first
    assert "by 5 pairs of day40 against itself on 2026-02-02, and at least 5 %." in first
    without = replace(built.tested_benchmark(), noise_floor=None)
    assert "no fitting noise floor was measured" in report.render_benchmark(without)


def test_first_screen_of_a_run_has_its_targets():
    first = first_screen("run")
    assert '<h2 id="what-was-found">What is slow?</h2>' in first
    assert f"<li>Then: {built.DAILY}, p95 35.80 ms.</li>" in first
    assert "Baseline" not in first
    assert re.search(r"Redis cache hit ratio</th><td class=\"n\">&gt; 85 %</td><td class=\"n\">88.5 %</td>", first)
    day31 = first_screen("run-day31")
    assert re.search(r"Redis cache hit ratio</th>.{80,220}<span class=\"status not_applicable\">n/a</span>", day31)


def test_a_single_doubt_stands_in_full_where_it_is_read_first():
    run = built.result("day40")
    html = report.render_run(replace(run, warnings=()))
    assert re.search(r'<p class="doubts"><strong>[^<]*</strong> Host: 2 cores and 8.0 GiB are less', html)
    assert 'id="doubts"' not in html
    large = {"cpu_count": 8, "memory_bytes": 33_500_000_000}
    assert 'class="doubts"' not in report.render_run(replace(run, warnings=(), meta=replace(run.meta, host=large)))


def test_effects_stand_in_one_table_with_their_verdicts():
    table = re.search(r'<table class="effects wide">.*?</table>', rendered("benchmark-tested"), re.DOTALL)[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    assert [row[0] for row in rows] == ["Endpoint", "all", "api", "api", "odoo", "odoo"]
    last = " ".join(rows[-1])
    assert "−7.0 % [−10, −4.0] inconclusive about 24 pairs needed" in last
    assert "+0.00 points [−0.05, +0.05] equivalent" in last
    assert last.endswith("+0 no interval inconclusive no test")


def test_what_is_signed_can_be_told_apart():
    assert f"<code>{DIGEST}</code>" in rendered("benchmark-tested")
    assert "not computed: this page was not rendered from a run&#39;s files" in rendered("benchmark")
    assert rendered("run").count("☐ accepted<br>") == 4


def headline(result: RunResult) -> str:
    html = report.render_run(result)
    return re.search(r'<p class="verdict">(.*?)</p>', html)[1]


@pytest.mark.parametrize(
    ("state", "reasons", "text"),
    [
        ("invalid", ("the load generator was saturated",), "the run is invalid; the load generator was saturated."),
        ("complete", ("parts are missing: probes.csv",), "parts are missing: probes.csv."),
        ("running", (), "the run is running."),
    ],
)
def test_a_run_that_cannot_be_trusted_says_so_first(state, reasons, text):
    run = built.result("day40")
    run = replace(run, meta=replace(run.meta, state=state, reasons=reasons))
    assert headline(run).startswith(f"day40 is invalid: {text}")
    html = report.render_benchmark(built.benchmark(built.result("day31"), built.result("day40"), [run]))
    assert f"Day 40 is invalid: {run.meta.run_id}: " in html


def test_a_run_that_keeps_all_limits_passes_and_one_without_limits_does_not():
    run = built.result("day40")
    kept = tuple(verdict for verdict in run.verdicts if verdict.outcome == "pass")
    assert headline(replace(run, verdicts=kept)) == "day40 passes: 9 of 9 limits met."
    assert headline(replace(run, verdicts=())) == "day40 was not judged: no limit applies."


def test_a_large_enough_host_is_not_warned_about():
    run = built.result("day40")
    large = replace(run, meta=replace(run.meta, host={"cpu_count": 8, "memory_bytes": 33_500_000_000}))
    assert "the specification plans for" not in without_pictures(report.render_run(large))
    unknown = replace(run, meta=replace(run.meta, host={}))
    assert "its size was not recorded" in report.render_run(unknown)


def test_an_observed_value_on_the_wrong_side_of_a_near_limit_reads_as_missed():
    run = built.result("day40")
    scenario = run.meta.scenario
    metrics = {**run.metrics, "p95_ms": {None: Estimate(200.01, 190.0, 210.0, 500)}}
    html = report.render_run(replace(run, verdicts=evaluate(scenario.thresholds[:1], metrics, "day40")))
    assert "Missed: p95_ms &lt; 200: 200.01 ms" in html
    assert "open: the limit lies inside the interval" in html


def cells(html: str, label: str) -> list[str]:
    """The texts of the first row with that label."""
    row = re.search(rf'<th scope="row">{re.escape(label)}</th>(.*?)</tr>', html)[1]
    return re.findall("<td>(.*?)</td>", row)


def test_a_run_that_a_limit_ended_early_fails_whatever_it_kept():
    run = built.result("day40")
    kept = tuple(verdict for verdict in run.verdicts if verdict.outcome == "pass")
    aborted = replace(run, verdicts=kept, meta=replace(run.meta, aborted="p95_ms < 200 over the last 30 s: 250.0 ms"))
    assert headline(aborted) == "day40 fails: it was ended early. 9 of 9 limits met until then."
    said = "<li>Ended early: p95_ms &lt; 200 over the last 30 s: 250.0 ms</li>"
    assert said in report.render_run(aborted)
    day31 = replace(aborted, meta=replace(aborted.meta, profile="day31"))
    for run, state in ((aborted, "fail"), (day31, "pass")):
        benchmark = replace(
            built.quick_benchmark(), runs=(run,), day40=replace(aborted, meta=built.result("day40").meta)
        )
        html = report.render_benchmark(benchmark)
        assert f'<section class="answer verdict-strip {state}"' in html
        assert f"<li>{run.meta.run_id}: Ended early: p95_ms" in html


def test_an_open_load_shows_what_became_of_its_arrivals():
    html = rendered("run-open")
    assert "40 → 70 arrivals/s (constant), at most 50 under way" in html
    assert "3,320 arrivals due, of which 33 started more than 50 ms late and 5 never started." in html
    labels = ["Due", "Started more than 50 ms late", "Dropped: never started"]
    assert [cells(html, label) for label in labels] == [["3,320"], ["33 (1.0 %)"], ["5 (0.2 %)"]]
    assert cells(rendered("benchmark-open"), "Due") == ["3,320", "3,320"]
    assert "never started" not in rendered("run")
    unknown = built.open_load("day40")
    html = report.render_run(replace(unknown, summary=replace(unknown.summary, arrivals=None)))
    assert cells(html, "Due") == ["no data"]


def test_an_open_load_shows_nothing_of_the_users_that_criteria_ask_for():
    run = built.open_load("day40")
    scenario = replace(run.meta.scenario, duration_s=300.0)
    summary = replace(run.summary, counted_s=300.0, endpoints=run.summary.endpoints[:3])
    run = replace(run, meta=replace(run.meta, scenario=scenario), summary=summary)
    for load, statuses in (("open", ("no_data", "not_shown")), ("closed", ("pass", "pass"))):
        scenario = replace(scenario, load=load)
        rows = {row.criterion: row for row in compare.criteria(replace(run, meta=replace(run.meta, scenario=scenario)))}
        pool, sustained = rows["Connection pool utilisation"], rows["50 users sustained for 5 min"]
        assert (pool.status, sustained.status) == statuses
        assert ("an open load for 300 s, not 50 users for 300 s" in sustained.note) == (load == "open")


def test_what_the_load_generator_counted_of_itself():
    html = rendered("run")
    assert cells(html, "Replies compared with the seed") == [
        f"33 of 3,315, about one in 200; wrong: 1 ({built.DAILY} 1)"
    ]
    assert cells(html, "Connections, API") == [
        "25 opened, 1 of them to replace one that was to be kept; 683.6 KiB sent, 2.4 MiB received"
    ]
    assert cells(html, "Process worker-1") == [
        "CPU p95 11.5 %, at most 34.0 %; loop lag p95 1.25 ms, at most 12.00 ms; 61 open files of 10,000"
    ]
    assert cells(html, "Process worker-2") == ["CPU no data; loop lag no data"]
    assert cells(html, "Worker worker-1") == ["25 users, 3,300 samples"]
    assert cells(html, "Worker worker-2") == ["lost: 25 users, 15 samples; at most 75 missing"]


def test_counts_of_an_older_run_are_shown_as_far_as_they_go():
    run = built.result("day40")
    flat = {"cpu_p95_pct": 11.5, "cpu_max_pct": 34.0, "lag_p95_ms": 1.25, "lag_max_ms": None}
    older = replace(run, meta=replace(run.meta, counts={"sent": {}, "recorded": {}, "generator": flat}))
    html = report.render_run(older)
    assert cells(html, "Process of the load") == ["CPU p95 11.5 %, at most 34.0 %; loop lag no data"]
    assert "Replies compared" not in html
    lost = {"workers": {"w": {"index": 0, "users": 3, "lost": True, "samples": 9, "missing_at_most": None}}}
    html = report.render_run(replace(run, meta=replace(run.meta, counts=lost)))
    assert cells(html, "Worker w") == ["lost: 3 users, 9 samples; how many are missing is not known"]
    assert "counted of itself; CPU is of one core, as each of its processes can use no more: no data" in rendered(
        "empty-run"
    )


def test_slow_statements_are_listed_or_said_to_be_none():
    text = " ".join(" ".join(Page(rendered("benchmark")).text).split())
    assert "none of about 6,075 statements (612 logged) took 100.0 ms or longer" in text
    page = rendered("run-day31")
    assert re.search(r"res_partner.*not counted.*104\.0 ms", page)
    assert re.search(r"<details><summary>Plan[^<]*</summary><pre>[^<]*health_record", page)
    assert "statement log was not read" in rendered("empty-run")
    many = replace(built.slow("day31"), rows=built.slow("day31").rows * 12)
    assert "the first 20 of 24" in report.render_run(replace(built.result("day31"), slow=many))


def plan_changes(html: str) -> dict[str, str]:
    """Query -> what its summary line says, in the order of the page."""
    section = html.partition('id="plans"')[2].partition("<h2 ")[0]
    lines = re.findall(r"<b>P\d+</b> ([^:<]+): (.*?)</summary>", section, re.DOTALL)
    return {name: " ".join(text.split()) for name, text in lines}


def test_plans_stand_side_by_side_with_what_changed_most_first():
    html = rendered("benchmark")
    changes = plan_changes(html)
    assert next(iter(changes)) == "milk history"
    assert changes["milk history"] == (
        "blocks 25 × fewer; time 99 × shorter; farm.milk_production: Seq Scan → Index Scan; "
        "gains idx_farm_milk_prod_animal_date, idx_farm_milk_prod_date_shift; rows thrown away 162,825 → 0"
    )
    assert "same plan" in changes["animal by tag"]
    assert "The same plan on both days: 2 of 8 (animal by tag, " in html
    assert "</span>: 6 of 8 read a large table sequentially: daily milk report (farm.milk_production); " in html
    assert "</span>: 0 of 8 read a large table sequentially." in html
    assert "not explained: relation &#34;farm.gone&#34; does not exist" in html
    assert re.search(r"<mark>− +Filter: .*?animal_id.*</mark>", html)
    assert re.search(r"<mark>\+ +Index Cond: .*?animal_id.*</mark>", html)


def test_a_run_without_plans_says_so_and_one_side_alone_is_shown():
    html = rendered("empty-run")
    assert "Not captured: these runs have no plans." in html
    day40 = built.result("day40")
    lacking = replace(built.result("day31"), plans=None)
    html = report.render_benchmark(built.benchmark(lacking, day40))
    assert "Cannot be compared: 8 of 8" in html
    assert set(plan_changes(html).values()) == {"day31: not captured"}


def test_a_statement_that_ends_a_script_is_text():
    run = built.result("day40")
    hostile = replace(run.servers.statements[0], name=None, query="SELECT '</script></pre><img src=x onerror=y>'")
    delta = replace(run.servers, statements=(hostile, *run.servers.statements[1:]))
    for html in (
        report.render_run(replace(run, servers=delta)),
        report.render_benchmark(built.benchmark(built.result("day31"), replace(run, servers=delta))),
    ):
        assert "SELECT &#39;&lt;/script&gt;&lt;/pre&gt;&lt;img" in html
        assert not {"script", "img"} & {tag for tag, _ in Page(html).tags}


def test_statements_say_what_got_faster_and_what_they_add_up_to():
    html = rendered("benchmark")
    section = html.partition('id="statements"')[2].partition('id="slow"')[0]
    text = " ".join(" ".join(Page(f"<main><h2 {section.rpartition('<h2')[0]}</main>").text).split())
    assert "Less time per request on day40: together −" in text
    assert text.index("daily milk report") < text.index("health search")
    assert "gone: not called on day40" in text
    assert "new: not called on day31" in text
    assert "Execution time day31" in text
    assert "p95" not in text
    assert "no data: there are no snapshots" in rendered("empty-benchmark").lower()


def test_a_plan_that_could_not_be_taken_is_named_with_the_reason():
    run = built.result("day40")
    plans = replace(run.plans, critical=run.plans.critical[1:], missing={"animal by tag": "timeout"})
    html = report.render_run(replace(run, plans=plans))
    assert '<span class="absent">timeout</span>' in html
    assert "1 could not be taken." in html
