"""Which model the owner chose for a group, on disk."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects.sqlite import insert

from microclaw.core.model_choice import DEFAULT
from microclaw.core.requests import ModelAsked, ModelChosen
from microclaw.router.tables import models


class Models:
    """Reader and only writer of the choices."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def chosen(self, group: str) -> str:
        """What was chosen for the group, "" = nothing. Whether it is still allowed, the configuration says."""
        with self._engine.begin() as db:
            return str(db.execute(select(models.c.model).where(models.c.folder == group)).scalar() or "")

    def choose(self, db: Connection, group: str, model: str) -> None:
        """From now on the group has this one; `default` = what the configuration says."""
        if model == DEFAULT:
            db.execute(delete(models).where(models.c.folder == group))
            return
        row = insert(models).values(folder=group, model=model)
        db.execute(row.on_conflict_do_update(index_elements=[models.c.folder], set_={"model": model}))

    async def on_asked(self, question: ModelAsked, _asker: str) -> ModelChosen:
        """Answer `models.chosen`."""
        return ModelChosen(model=self.chosen(question.group))
