"""Standings are read from records whose order is known."""

import numpy as np
import pytest

from dclose_nb.studies import inference, standings
from dclose_nb.studies.records import Records

NAMES = ("drise own", "drise 25", "dclose own", "dclose 25", "odam own", "greedy own", "greedy 25")
PASSES = (1000, 25, 2000, 25, 0.5, 500, 20)


def thing(rng, **shift):
    """An object whose scores are those of `shift`, and a little chance."""
    values = {
        name: {
            "passes": float(passes),
            "over_all": shift.get(name, 0.5) + rng.normal(0, 0.01),
            "truth_shared": 0.9 - shift.get(name, 0.5) + rng.normal(0, 0.01),
            "deletion": 0.3 - shift.get(name, 0.5) / 10 + rng.normal(0, 0.001),
            "agreement": None if name == "odam own" else 0.5,
        }
        for name, passes in zip(NAMES, PASSES)
    }
    return {"label": "cat", "area": 0.1, "methods": values}


@pytest.fixture
def found(tmp_path):
    rng = np.random.default_rng(0)
    records = Records(tmp_path / "records.jsonl", {"detector": "none"})
    for image in range(12):
        high = {"greedy 25": 0.7, "dclose 25": 0.7 + rng.normal(0, 0.05)}
        records.append({"image": 11 - image, "rule": "or", "objects": [thing(rng, **high) for _ in range(2)]})
    return standings.objects(Records(tmp_path / "records.jsonl"))


def test_objects_know_their_image_and_rule(found):
    assert len(found) == 24 and [record["image"] for record in found] == sorted(list(range(12)) * 2)
    assert {record["rule"] for record in found} == {"or"}


def test_a_number_of_passes_chooses_entries_and_gradients_have_their_own(found):
    chosen = {"dclose": "dclose 25", "drise": "drise 25", "odam": "odam own", "greedy": "greedy 25"}
    assert standings.at(found, 25) == chosen
    assert standings.at(found, None)["drise"] == "drise own"
    assert standings.at([], 25) == {} == standings.lines([], "over_all")


def test_lines_go_from_few_passes_to_many(found):
    lines = standings.lines(found, "over_all")
    assert [passes for passes, _ in lines["dclose"]] == [25, 2000] and len(lines["odam"]) == 1
    expected = inference.mean(found, lambda record: record["methods"]["dclose 25"]["over_all"])
    assert lines["dclose"][0][1] == expected


def test_means_have_a_row_for_each_method(found):
    table = standings.means(found, "over_all", [25, None])
    assert table.columns == ["", "25 passes", "own number"]
    assert [row[0] for row in table.rows] == ["D-CLOSE", "D-RISE", "greedy", "ODAM"]
    own = inference.mean(found, lambda record: record["methods"]["dclose own"]["over_all"])
    assert table.rows[0][2] == own.text(sign="")
    assert table.rows[3][1] == table.rows[3][2]  # ODAM has one number


def test_a_map_that_was_there_before_learning_is_found_out(found):
    rng = np.random.default_rng(1)
    for record in found:
        for name, alike in (("odam own", 0.6), ("drise 25", 0.2)):
            noise = rng.normal(0, 0.02)
            record["methods"][name] |= {"shuffled": alike + noise, "by_chance": 0.2}
    claims = standings.unlearned(found, standings.at(found, 25))
    told = {claim.sentence.split(":")[0]: claim.evidence.mean for claim in claims}
    assert told == {"D-RISE": pytest.approx(0, abs=0.02), "ODAM": pytest.approx(0.4, abs=0.02)}
    words = [verdict.word for verdict in inference.verdicts(claims)]
    assert words == ["open", "holds"]


def test_the_best_stands_with_all_that_are_not_shown_to_be_worse(found):
    table = standings.ahead(found, ("over_all", "deletion", "ebpg"), standings.at(found, 25))
    over_all, deletion = table.rows  # nobody has an ebpg
    assert {over_all[0], deletion[0]} == {"over-all ↑", "deletion ↓"} and "6 comparisons" in table.title
    for row in table.rows:
        level = {"greedy", "D-CLOSE"} - {row[1]}
        assert row[1] in ("greedy", "D-CLOSE") and row[3] == "24 of 12"
        assert row[4].startswith(level.pop()) and ";" not in row[4]


def test_methods_that_tie_are_all_best(found):
    for record in found:
        for name, values in record["methods"].items():
            values["pointing"] = 0.0 if name.startswith("drise") else 1.0
    (row,) = standings.ahead(found, ["pointing"], standings.at(found, 25)).rows
    assert row[1] == "D-CLOSE, greedy, ODAM" and row[4] == "nobody"


def test_a_score_that_turns_the_truth_round_is_found_out(found):
    entries = standings.at(found, 25)
    claims = standings.nearer(found, "truth_shared", entries)
    winner = claims[0].sentence.split(" than ")[1].split(",")[0]
    assert len(claims) == 3 and winner in ("greedy", "D-CLOSE")
    words = {
        claim.sentence.split()[0]: verdict.word for claim, verdict in zip(claims, inference.verdicts(claims))
    }
    assert words["D-RISE"] == words["ODAM"] == "holds"
    order = standings.same_order(found, "over_all", "truth_shared", entries)
    assert order.high < -0.5
    assert standings.same_order(found, "over_all", "over_all", entries).mean == pytest.approx(1)


def test_maps_without_an_order_say_nothing(found):
    for record in found[:20]:
        for values in record["methods"].values():
            values["over_all"] = 0.5
    entries = standings.at(found, 25)
    assert standings.same_order(found, "over_all", "truth_shared", entries).n_objects == 4
    assert standings.same_order(found, "agreement", "truth_shared", entries).n_objects == 0
