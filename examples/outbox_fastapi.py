"""An application that keeps articles in its own database, and has each one embedded and summarised: the outbox.

    uvicorn examples.outbox_fastapi:app   # then: curl -d '{"text": "…"}' -H 'Content-Type: application/json' \
                                          #            http://127.0.0.1:8000/articles/7

An article and its tasks are committed in one transaction. A crash, a refusal or a lost connection anywhere in between
leaves all of it or nothing; there is no article that nobody embeds, and no task about an article that was not kept.

The articles live in the database of ML_SPOOL_URL, next to the spool's own tables: a SQLite file by default, or
postgresql://user:password@host/database. In a larger system the producer may as well run elsewhere (`mlproducer serve`
on the same ML_SPOOL_URL), and this application needs the outbox alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import ForeignKey, create_engine, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from mlproducer import MLProducerError, NotFound, Outbox, Producer, Settings, Task
from mlproducer.http import get_producer, lifespan_for, problem_response

SUMMARY_FROM = 200
"""Characters: what is shorter is its own summary."""

settings = Settings.load()
database = make_url(settings.spool_url)
if database.get_backend_name() == "postgresql":
    database = database.set(drivername="postgresql+psycopg")
engine = create_engine(database)
outbox = Outbox(settings)


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "articles"
    id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    tasks: Mapped[list[ArticleTask]] = relationship()


class ArticleTask(Base):
    __tablename__ = "article_tasks"
    task_id: Mapped[str] = mapped_column(primary_key=True)
    article_id: Mapped[str] = mapped_column(ForeignKey("articles.id"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with lifespan_for(settings)(app):  # starts the producer, which makes the spool's tables and drains them
        Base.metadata.create_all(engine)
        yield
    engine.dispose()


app = FastAPI(title="articles", lifespan=lifespan)
app.add_exception_handler(MLProducerError, problem_response)  # a wrong task is a 422, one too large a 413


class Given(BaseModel):
    text: str


class Kept(BaseModel):
    article_id: str
    tasks: dict[str, str]
    """Where each task is, by its id."""


@app.post("/articles/{article_id}", status_code=202)
def save(article_id: str, given: Given) -> Kept:
    """Keep an article. When this answers, the article and its tasks are committed."""
    payload = {"share_id": article_id, "content": given.text}
    tasks = [Task(task_type="embed_vectors", payload=payload)]
    if len(given.text) >= SUMMARY_FROM:
        tasks.append(Task(task_type="summarize_llm", payload=payload))
    try:
        with Session(engine) as session, session.begin():
            session.add(Article(id=article_id, text=given.text))
            for task in tasks:
                session.add(ArticleTask(task_id=outbox.add(session, task), article_id=article_id))
    except IntegrityError:
        raise HTTPException(409, "there is an article of this id") from None
    return Kept(article_id=article_id, tasks={task.id: "spooled" for task in tasks})


@app.get("/articles/{article_id}")
async def show(article_id: str, producer: Annotated[Producer, Depends(get_producer)]) -> Kept:
    """Where the article's tasks are."""
    with Session(engine) as session:  # a small local look; a larger application would await an AsyncSession
        ids = session.scalars(select(ArticleTask.task_id).where(ArticleTask.article_id == article_id)).all()
    if not ids:
        raise NotFound(f"no article {article_id}")
    return Kept(article_id=article_id, tasks={each: (await producer.receipt(each)).state for each in ids})
