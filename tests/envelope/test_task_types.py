"""The registry of task types, and task types from a user's TOML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mlproducer.envelope.encode import Encoder, describe
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import InvalidTask, SettingsError
from mlproducer.settings import Settings
from mlproducer.task import Task

EXAMPLE = """
[task_types.classify_image]
preferred = "gpu"

[task_types.classify_image.routes.gpu]
celery_task = "vision.tasks.classify"
queue = "ml.vision"

[task_types.classify_image.routes.cpu]
celery_task = "vision.tasks.classify_slowly"
queue = "ml.vision_slow"

[task_types.classify_image.fields]
share_id = "string"
schema = { type = "string", min_length = 2, max_length = 5 }
size = { type = "integer", minimum = 1, maximum = 10 }
_ratio = { type = "number", default = 1 }
colour = { type = "string", choices = ["red", "green"], required = false }
labels = { type = "array", items = "string", max_length = 2, default = [] }
exact = { type = "boolean", default = true }
options = { type = "object", default = {} }
anything = { type = "any", default = 0 }
"""

GOOD = {"share_id": "s", "schema": "ab", "size": 3}


class Anything(BaseModel):
    pass


WriteToml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    def write(text: str) -> Path:
        path = tmp_path / "types.toml"
        path.write_text(text)
        return path

    return write


def kwargs_of(types: TaskTypes, payload: dict[str, Any], task_type: str = "classify_image") -> dict[str, Any]:
    envelope = Encoder(types, "o", 65536).encode(Task(task_type=task_type, payload=payload))
    found: dict[str, Any] = describe(envelope)["kwargs"]
    return found


def test_the_built_in_types_know_all_queues_of_the_topology() -> None:
    types = TaskTypes.builtin()
    assert types.names == (
        "summarize_llm",
        "transcribe_whisper",
        "embed_vectors",
        "embed_vectors_batch",
        "summarize_video_combined",
    )
    assert types.queues == ("ml.summarize", "ml.summarize_local", "ml.transcribe", "ml.transcribe_local", "ml.embed")


@pytest.mark.parametrize(
    ("preferred", "setting"),
    [
        ({"preferred_llm": "gpu"}, "PREFERRED_LLM_BACKEND"),
        ({"preferred_stt": ""}, "PREFERRED_STT"),
        ({"preferred_embedding": "API"}, "PREFERRED_EMBEDDING_BACKEND"),
    ],
)
def test_a_preferred_backend_that_does_not_exist_is_refused_by_its_setting(
    preferred: dict[str, str], setting: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{setting}: .*choose api or local"):
        TaskTypes.builtin(**preferred)


def test_a_type_of_a_known_name_takes_its_place() -> None:
    mine = TaskType("summarize_llm", {"api": Route("mine.summarize", "mine")}, Anything)
    types = TaskTypes.builtin().with_([mine])
    assert types["summarize_llm"] is mine
    assert len(types) == len(TaskTypes.builtin())
    assert "mine" in types.queues
    assert "ml.summarize_local" not in types.queues
    assert TaskTypes.builtin()["summarize_llm"] is not mine


def test_a_name_given_twice_is_refused() -> None:
    mine = TaskType("mine", {"api": Route("mine.task", "mine")}, Anything)
    with pytest.raises(SettingsError, match="mine: given twice"):
        TaskTypes.builtin().with_([mine, mine])


def test_resolve_says_type_and_route() -> None:
    types = TaskTypes.builtin()
    found, route = types.resolve(Task(task_type="summarize_llm", payload={}, backend="local"))
    assert found is types["summarize_llm"]
    assert route == Route("llm_service.tasks.summarize_content_local", "ml.summarize_local")
    with pytest.raises(InvalidTask, match=r"^task_type: .*embed_vectors"):
        types.resolve(Task(task_type="nothing", payload={}))
    with pytest.raises(InvalidTask, match=r"^backend: "):
        types.resolve(Task(task_type="summarize_llm", payload={}, backend="gpu"))


def test_a_registry_and_its_types_do_not_change() -> None:
    routes = {"api": Route("t", "q")}
    each = TaskType("mine", routes, Anything)
    routes["local"] = Route("other", "other")
    assert list(each.routes) == ["api"]
    with pytest.raises(TypeError):
        each.routes["local"] = Route("t", "q")  # type: ignore[index]  # what must fail at run time too
    with pytest.raises(FrozenInstanceError):
        each.name = "other"  # type: ignore[misc]  # see above
    assert "mine" in repr(TaskTypes([each]))
    assert {each: 1}[each] == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Route("", "q"), "Celery task name"),
        (lambda: Route("two words", "q"), "Celery task name"),
        (lambda: Route("t", ""), "queue ''"),
        (lambda: Route("t", "q" * 256), "255 bytes"),
        (lambda: Route("t", "é" * 128), "255 bytes"),
        (lambda: Route("t", "half \ud83d"), "255 bytes"),
        (lambda: Route("t", "amq.gen"), "belong to the broker"),
        (lambda: TaskType("", {"api": Route("t", "q")}, Anything), "starts with a letter"),
        (lambda: TaskType("x" * 65, {"api": Route("t", "q")}, Anything), "at most 64"),
        (lambda: TaskType("x", {}, Anything), "needs at least one route"),
        (lambda: TaskType("x", {"a b": Route("t", "q")}, Anything, "a b"), "backend 'a b'"),
        (lambda: TaskType("x", {"gpu": Route("t", "q")}, Anything), "'api' has no route; there are gpu"),
    ],
)
def test_a_task_type_whose_parts_do_not_fit_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        make()


def test_a_type_from_toml_is_encoded_like_any_other(toml: WriteToml) -> None:
    types = TaskTypes.builtin().with_(TaskTypes.from_toml(toml(EXAMPLE)))
    defaults: dict[str, Any] = {"_ratio": 1, "colour": None, "labels": [], "exact": True, "options": {}, "anything": 0}
    assert types["classify_image"].preferred == "gpu"
    assert types.queues[-2:] == ("ml.vision", "ml.vision_slow")
    assert kwargs_of(types, GOOD) == {**GOOD, **defaults}
    given = {"_ratio": 0.5, "colour": "red", "labels": ["a"], "exact": False, "options": {"o": [1]}, "anything": [None]}
    assert kwargs_of(types, {**GOOD, **given}) == {**GOOD, **given}


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"schema": "ab", "size": 3}, "payload.share_id"),
        ({**GOOD, "schema": "a"}, "payload.schema"),
        ({**GOOD, "schema": "abcdef"}, "payload.schema"),
        ({**GOOD, "size": 0}, "payload.size"),
        ({**GOOD, "size": 11}, "payload.size"),
        ({**GOOD, "size": "3"}, "payload.size"),
        ({**GOOD, "size": 3.0}, "payload.size"),
        ({**GOOD, "size": True}, "payload.size"),
        ({**GOOD, "_ratio": True}, "payload._ratio"),
        ({**GOOD, "_ratio": "1"}, "payload._ratio"),
        ({**GOOD, "colour": "blue"}, "payload.colour"),
        ({**GOOD, "labels": [1]}, "payload.labels.0"),
        ({**GOOD, "labels": ["a", "b", "c"]}, "payload.labels"),
        ({**GOOD, "exact": 1}, "payload.exact"),
        ({**GOOD, "options": []}, "payload.options"),
        ({**GOOD, "field_0": "s"}, "payload.field_0"),
    ],
)
def test_a_payload_that_breaks_a_rule_of_the_file_is_refused(
    toml: WriteToml, payload: dict[str, Any], field: str
) -> None:
    types = TaskTypes(TaskTypes.from_toml(toml(EXAMPLE)))
    with pytest.raises(InvalidTask) as caught:
        kwargs_of(types, payload)
    assert caught.value.field == field


def test_two_tasks_never_share_a_default(toml: WriteToml) -> None:
    (each,) = TaskTypes.from_toml(toml(EXAMPLE))
    first, second = (each.fields.model_validate(GOOD).model_dump(mode="python") for _ in range(2))
    first["options"]["mine"] = 1
    assert second["options"] == {}
    one, two = (each.fields.model_validate(GOOD) for _ in range(2))
    assert one.field_7 is not two.field_7  # type: ignore[attr-defined]  # made at run time


def test_a_single_route_is_preferred_and_api_is_preferred_among_several(toml: WriteToml) -> None:
    one = '[task_types.a]\nfields = {}\n[task_types.a.routes.gpu]\ncelery_task = "t"\nqueue = "q"\n'
    assert TaskTypes.from_toml(toml(one))[0].preferred == "gpu"
    several = one + '[task_types.a.routes.api]\ncelery_task = "t"\nqueue = "q"\n'
    assert TaskTypes.from_toml(toml(several))[0].preferred == "api"


ROUTE = '[task_types.a.routes.api]\ncelery_task = "t"\nqueue = "q"\n'
FIELD = ROUTE + "[task_types.a.fields]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task_types = ]", "not valid TOML: .*line 1"),
        ("", r"toml: task_types: is missing"),
        ("[tasks]", r"toml: tasks: unknown key"),
        ("[task_types]\na = 1", r"\[task_types\] a: Input should be"),
        ("[task_types.a]\nfields = {}", r"\[task_types.a\] routes: is missing"),
        ("[task_types.a]\nfields = {}\nroutes = {}", r"\[task_types.a\] routes: .* at least 1"),
        (ROUTE, r"\[task_types.a\] fields: is missing"),
        (FIELD + '[task_types.a.routes.b]\nqueue = "q"', r"\[task_types.a.routes.b\] celery_task: is missing"),
        (
            FIELD + "[task_types.a.routes.b]\ncelery_task = 1\nqueue='q'",
            r"\[task_types.a.routes.b\] celery_task: .*string",
        ),
        (FIELD + "[task_types.a.routes.b]\ncelery_task = 't'\nqueue=''", r"\[task_types.a.routes\] b: queue ''"),
        (
            FIELD.replace("api", "x") + ROUTE.replace("api", "y"),
            r"\[task_types.a\] preferred: is missing; choose one of x, y",
        ),
        (FIELD + "[task_types.a]\npreferred = 'gpu'", r"\[task_types\] a: .*'gpu' has no route"),
        (FIELD.replace("types.a", 'types."a b"'), r"\[task_types\] a b: .* starts with a letter"),
        (FIELD + "x = 'text'", r"\[task_types.a.fields.x\] type: Input should be 'string', 'integer'"),
        (FIELD + "x = 1", r"\[task_types.a.fields\] x: Input should be"),
        (FIELD + "x = {}", r"\[task_types.a.fields.x\] type: is missing"),
        (FIELD + "x = {type='string', max=1}", r"\[task_types.a.fields.x\] max: unknown key"),
        (FIELD + "x = {type='integer', max_length=1}", r"x\] max_length: only for array or object or string"),
        (FIELD + "x = {type='string', minimum=1}", r"x\] minimum: only for integer or number, this field is string"),
        (FIELD + "x = {type='boolean', choices=['a']}", r"x\] choices: only for integer or string"),
        (FIELD + "x = {type='string', choices=['a', 1]}", r"x\] choices: must all be of type string"),
        (FIELD + "x = {type='string', items='string'}", r"x\] items: only for array"),
        (FIELD + "x = {type='string', min_length=2, max_length=1}", r"x\] min_length: is over max_length"),
        (FIELD + "x = {type='number', minimum=2, maximum=1}", r"x\] minimum: is over maximum"),
        (FIELD + "x = {type='string', required=true, default='a'}", r"x\] required: a required field has no default"),
        (FIELD + "x = {type='string', default=1}", r"x\] default: Input should be a valid string"),
        (FIELD + "x = {type='string', max_length=1, default='ab'}", r"x\] default: String should have at most"),
        (FIELD + "x = {type='number', default=nan}", r"x\] default: NaN"),
        (FIELD + "x = {type='any', default=2030-01-31}", r"\[task_types.a.fields.x\] default: "),
    ],
)
def test_a_fault_in_the_file_is_named_by_file_table_and_key(toml: WriteToml, text: str, words: str) -> None:
    path = toml(text)
    with pytest.raises(SettingsError, match=words) as caught:
        TaskTypes.from_toml(path)
    assert str(caught.value).startswith(str(path))


def test_all_faults_of_the_shape_are_listed_at_once(toml: WriteToml) -> None:
    with pytest.raises(SettingsError) as caught:
        TaskTypes.from_toml(toml("[task_types.a]\n[task_types.b]\n"))
    assert str(caught.value).count("is missing") == 4


def test_a_file_that_cannot_be_read_is_refused_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^ML_TASK_TYPES: .*none\.toml cannot be read: No such file"):
        TaskTypes.from_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'[task_types."\xe4"]')
    with pytest.raises(SettingsError, match="not valid TOML"):
        TaskTypes.from_toml(tmp_path / "latin.toml")


def test_the_built_in_types_can_be_left_out(tmp_path: Path) -> None:
    own = tmp_path / "types.toml"
    own.write_text('[task_types.mine.routes.api]\ncelery_task = "my.task"\nqueue = "mine"\n[task_types.mine.fields]\n')
    assert TaskTypes.chosen(Settings.load(ml_builtin_types=False, ml_task_types=own)).names == ("mine",)
    assert len(TaskTypes.chosen(Settings.load(ml_task_types=own))) == len(TaskTypes.builtin()) + 1
    none = TaskTypes.chosen(Settings.load(ml_builtin_types=False))
    with pytest.raises(InvalidTask, match=r"none is known .*ML_BUILTIN_TYPES=no"):
        none.resolve(Task(task_type="summarize_llm", payload={}))
