"""The studio's API: stories, edits, candidates, locks, imports, exports, what is refused, what outlives the server."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from modules.common.errors import UserError
from modules.generation.settings import GenerationSettings
from modules.steering.planned_story import tell
from modules.steering.short import ShortTexts
from tests.studio.conftest import PROMPT, wait


def record(client: Any, story: str) -> dict[str, Any]:
    return client.get(f"/api/stories/{story}").json()


def head(client: Any, story: str) -> dict[str, Any]:
    found = record(client, story)
    return next(state for state in found["states"] if state["id"] == found["visits"][-1])


def png(size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_story_is_that_of_the_command_line(client, story, tiny_pipeline):
    told = tell(tiny_pipeline, PROMPT, 3, GenerationSettings(seed=1))
    made = head(client, story)
    assert made["texts"] == list(told.texts) and made["plan"] == told.plan.to_string()
    project = client.app.state.studio.project
    assert [image.tobytes() for image in project.open_state(made).images] == [one.tobytes() for one in told.images]
    assert len(made["checks"]["warnings"]) == 3


def test_texts_are_shown_word_by_word_before_the_pictures(client, finish):
    log = client.app.state.studio.events
    start = log.last_id
    finish("stories", prompt=PROMPT, pages=3, seed=1)
    jobs = [json.loads(text)["job"] for _, text in log.since(start)[0] if '"type":"job"' in text]
    drafts = [job for job in jobs if job["draft"]]
    unfinished, last = drafts[0]["draft"]["texts"], drafts[-1]["draft"]["texts"]
    assert len(unfinished) == 3 and drafts[0]["total"] == 0  # Pictures are counted from their beginning on.
    assert unfinished != last
    assert all(text.startswith(begun) for begun, text in zip(unfinished, last, strict=True))


def test_candidates_wait_until_one_is_picked_and_undo_returns(client, story, finish):
    before = head(client, story)
    job = finish(f"stories/{story}/edits", operation="redraw", page=1, count=2)
    assert len(job["result"]["states"]) == 2 and head(client, story)["id"] == before["id"]
    chosen = job["result"]["states"][1]
    assert client.post(f"/api/stories/{story}/shown", json={"state": chosen}).status_code == 204
    after = head(client, story)
    assert after["pictures"][1] != before["pictures"][1] and after["parent"] == before["id"]
    assert [after["pictures"][page] for page in (0, 2)] == [before["pictures"][page] for page in (0, 2)]
    client.post(f"/api/stories/{story}/shown", json={"state": before["id"]})
    assert head(client, story) == before and len(record(client, story)["states"]) == 3


@pytest.mark.parametrize(
    ("operation", "more"),
    [("words", {"text": "A new line."}), ("text", {"text": "A new line."}), ("codes", {"codes": {"2": 5}})],
)
def test_an_edit_is_shown_at_once(client, story, finish, operation, more):
    before = head(client, story)
    assert finish(f"stories/{story}/edits", operation=operation, page=1, **more)["status"] == "done"
    after = head(client, story)
    assert after["texts"][0] == before["texts"][0] and after["pictures"][2] == before["pictures"][2]
    if "text" in more:
        assert after["texts"][1] == "A new line."
        assert (after["pictures"][1] == before["pictures"][1]) == (operation == "words")
    else:
        assert after["codes"][1][2] == 5


def test_pages_are_inserted_moved_removed_and_taken_back(client, story, finish):
    first = head(client, story)
    client.post(f"/api/stories/{story}/locks", json={"locks": ["2.text"]})
    finish(f"stories/{story}/edits", operation="insert", page=1)
    longer = head(client, story)
    assert len(longer["texts"]) == 4 and longer["locks"] == ["3.text"]
    assert longer["texts"][2:] == first["texts"][1:] and longer["pictures"][0] == first["pictures"][0]
    finish(f"stories/{story}/edits", operation="move", page=3, to=0)
    moved = head(client, story)
    assert moved["pictures"] == [longer["pictures"][page] for page in (3, 0, 1, 2)] and moved["locks"] == ["4.text"]
    finish(f"stories/{story}/edits", operation="remove", page=0)
    assert head(client, story)["texts"] == longer["texts"][:3]
    edited = head(client, story)
    finish(f"stories/{story}/edits", operation="words", page=0, text="Something else.")
    finish(f"stories/{story}/edits", operation="restore", page=0, state=edited["id"])
    assert head(client, story)["texts"] == edited["texts"] and head(client, story)["codes"] == edited["codes"]


def test_what_is_locked_is_refused_in_one_sentence(client, story, finish):
    assert client.post(f"/api/stories/{story}/locks", json={"locks": ["1"]}).status_code == 204
    job = finish(f"stories/{story}/edits", operation="redraw", page=0, count=1)
    assert job["status"] == "failed" and "locked" in job["error"]
    for locks in (["99"], ["cast.dragon.red"], ["cast.fox.plaid"]):
        assert client.post(f"/api/stories/{story}/locks", json={"locks": locks}).status_code == 400


def test_a_locked_character_stays_locked(client, story, finish):
    """Through pages that move; candidates are made although the tiny model's pictures show nobody."""
    client.post(f"/api/stories/{story}/locks", json={"locks": ["2", "cast.fox.red"]})
    finish(f"stories/{story}/edits", operation="insert", page=0)
    assert head(client, story)["locks"] == ["3", "cast.fox.red"]
    job = finish(f"stories/{story}/edits", operation="replan", page=0, count=1)
    assert job["status"] == "done" and len(job["result"]["states"]) == 1


def test_other_codes_and_branches_are_shown(client, story, finish):
    job = finish(f"stories/{story}/alternatives", page=0, slot=3, count=2)
    options = job["result"]["options"]
    assert len(options) == 3 and options[0]["code"] == head(client, story)["codes"][0][3]
    assert client.get(f"/api/pictures/{options[1]['picture']}?size=64").headers["content-type"] == "image/jpeg"
    assert finish(f"stories/{story}/branches", page=1)["status"] == "done"
    branches = record(client, story)["branches"]
    assert set(branches["endings"]) <= set(branches["pages"]) and branches["start"]
    assert set(branches["dead_ends"]) <= set(branches["endings"])


def test_choices_are_named_and_exported(client, story, finish):
    assert client.get(f"/api/stories/{story}/export/twee?branches=true").status_code == 400
    finish(f"stories/{story}/branches", page=1)
    (choice, *_) = next(page["next"] for page in record(client, story)["branches"]["pages"].values())
    named = f"/api/stories/{story}/captions"
    assert client.post(named, json={"page": choice, "caption": " To the  moon "}).status_code == 204
    assert client.post(named, json={"page": "99z", "caption": "x"}).status_code == 404
    assert f"[[To the moon->Page {choice}]]" in client.get(f"/api/stories/{story}/export/twee?branches=true").text
    assert "To the moon" in client.get(f"/api/stories/{story}/export/html?branches=true").text
    assert "To the moon" not in client.get(f"/api/stories/{story}/export/html").text


def test_codes_without_an_analysis(client, finish):
    """The view says which command makes one; the codes of a picture are read all the same."""
    found = client.get("/api/codes?words=castle").json()
    assert found["cards"] == [] and "analyze --ckpt" in found["hint"]
    assert client.get("/api/codes/pages/0").status_code == 404
    stored = client.post("/api/pictures", content=png()).json()["picture"]
    job = finish("codes/picture", picture=stored)
    assert len(job["result"]["codes"]) == client.get("/api/project").json()["model"]["num_slots"]


def test_a_page_or_a_string_restores_the_story(client, story, finish):
    made = head(client, story)
    page = client.get(f"/api/stories/{story}/states/{made['id']}/pages/1.png").content
    job = wait(client, client.post("/api/import/picture", content=page).json()["id"])
    again = head(client, job["result"]["story"])
    assert job["result"]["story"] != story and again["pictures"] == made["pictures"] and again["texts"] == made["texts"]
    assert client.post("/api/import/picture", content=png()).status_code == 400
    for text in ("plan1.damaged", "plan2.damaged"):
        assert client.post("/api/import", json={"plan": text}).status_code == 400


def test_a_short_text_restores_the_story(client):
    pipeline = client.app.state.studio.operations.pipeline
    told = tell(pipeline, "a fox", 2, GenerationSettings(seed=5))
    text = ShortTexts(pipeline).write(told.plan)
    job = wait(client, client.post("/api/import", json={"plan": text}).json()["id"])
    assert head(client, job["result"]["story"])["texts"] == list(told.texts)


def test_a_picture_is_encoded_again_before_it_is_used(client, story, finish):
    stored = client.post("/api/pictures", content=png() + b"<script>").json()["picture"]
    files = client.app.state.studio.project.folder / "pictures"
    assert b"<script>" not in (files / f"{stored}.png").read_bytes()
    assert finish(f"stories/{story}/edits", operation="picture", page=0, picture=stored)["status"] == "done"
    assert client.post("/api/pictures", content=b"no picture").status_code == 400
    assert client.post("/api/pictures", content=b"0" * (17 * 2**20)).status_code == 413
    assert client.get("/api/pictures/..%2Fstates.jsonl").status_code == 404
    assert client.get("/static/..%2Fapp.py").status_code == 404


def test_every_format_is_exported(client, finish):
    story = finish("stories", prompt=PROMPT, pages=1, seed=1)["result"]["story"]
    for one in client.get("/api/project").json()["formats"]:
        answer = client.get(f"/api/stories/{story}/export/{one['name']}")
        assert answer.status_code == 200 and len(answer.content) > 100, one
    assert client.get(f"/api/stories/{story}/export/exe").status_code == 404


def test_a_waiting_job_is_cancelled(client, story):
    jobs = [
        client.post("/api/stories", json={"prompt": PROMPT, "pages": 4, "seed": seed}).json()["id"] for seed in range(3)
    ]
    for job in reversed(jobs):
        client.post(f"/api/jobs/{job}/cancel")
    states = {wait(client, job)["status"] for job in jobs}
    assert "cancelled" in states and "failed" not in states
    assert not client.app.state.studio.project.waiting


def test_strangers_are_refused(client):
    assert client.get("/api/project", headers={"host": "evil.example"}).status_code == 403
    assert (
        client.post("/api/stories", json={"prompt": "x"}, headers={"origin": "http://evil.example"}).status_code == 403
    )
    answer = client.get("/", headers={"host": "127.0.0.1:7860"})
    assert answer.status_code == 200 and answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert client.post("/api/stories", json={"prompt": "x", "pages": 99}).status_code == 422
    assert client.post("/api/stories", json={"prompt": "  "}).status_code == 400
    assert "/api/stories/{story}/edits" in client.get("/api/openapi.json").json()["paths"]


def test_with_a_token_only_those_who_know_it(tiny_pipeline, tmp_path):
    testclient = pytest.importorskip("fastapi.testclient", reason="the studio's packages are not installed")
    from modules.studio.app import create_app
    from modules.studio.project import Project

    app = create_app(tiny_pipeline, Project(tmp_path / "project"), token="abcdefgh", sample=False)
    with testclient.TestClient(app) as client:
        assert client.get("/api/project").status_code == 401
        assert client.get("/api/project?token=wrongone").status_code == 401
        assert client.get("/?token=abcdefgh").status_code == 200
        assert client.get("/api/project").status_code == 200  # The cookie.


def test_another_server_finds_everything(client, story, finish, tmp_path):
    from modules.studio.project import Project

    finish(f"stories/{story}/edits", operation="words", page=0, text="Kept.")
    before, folder = head(client, story), client.app.state.studio.project.folder
    with pytest.raises(UserError, match="another process"):
        Project(folder)
    log = (folder / "states.jsonl").read_bytes()
    copy = tmp_path / "copy"
    (copy / "pictures").mkdir(parents=True)
    for file in (folder / "pictures").iterdir():
        (copy / "pictures" / file.name).write_bytes(file.read_bytes())
    (copy / "states.jsonl").write_bytes(log + b'{"kind":"head","story":')  # Killed while it wrote a line.
    again = Project(copy)
    assert again.books[story].head == before and again.open_state(before).texts[0] == "Kept."
    again.append("head", story=story, state=before["parent"])
    again.close()
    assert (copy / "states.jsonl").read_bytes().startswith(log)


def test_a_job_of_a_removed_story_harms_nothing(tmp_path):
    from modules.studio.project import Project

    project = Project(tmp_path)
    book = project.add_story("A fox")
    project.remove(book)
    with pytest.raises(UserError, match="was removed meanwhile"):
        project.show(book, "state1")
    project.close()
    with (tmp_path / "states.jsonl").open("a") as log:  # As older versions wrote it.
        log.write(json.dumps({"kind": "head", "story": book.id, "state": "state1"}) + "\n")
    again = Project(tmp_path)
    assert not again.books
    again.close()


def test_a_full_disk_damages_no_project(tmp_path, monkeypatch):
    from modules.studio import project as module

    project = module.Project(tmp_path)
    project.add_story("A fox")
    before, full = (tmp_path / "states.jsonl").read_bytes(), OSError(28, "No space left on device")

    def fail(descriptor):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            project.add_story("A bear")
    assert (tmp_path / "states.jsonl").read_bytes() == before
    book = project.add_story("A cat")
    project.close()
    again = module.Project(tmp_path)
    assert [again.books[name].title for name in again.books] == ["A fox", "A cat"] and book.id in again.books
    again.close()


def test_the_studio_answers_under_the_names_of_this_machine_only(client):
    for host, status in (("127.0.0.2:80", 200), ("[::1]", 200), ("testserver", 403), ("127.evil.com", 403)):
        assert client.get("/api/project", headers={"host": host}).status_code == status
