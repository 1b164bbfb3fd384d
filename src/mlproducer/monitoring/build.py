"""Writes the shipped dashboards and rules anew: `make dashboards`. Needs `grafana-foundation-sdk`."""

from __future__ import annotations

import json

from mlproducer.monitoring import fleet_board, producer_board, rules
from mlproducer.monitoring.dashboards import DATASOURCE, RUNBOOKS, SHIPPED


def built() -> dict[str, str]:
    """File name → text."""
    made = (board.build(datasource=DATASOURCE, runbooks=RUNBOOKS) for board in (producer_board, fleet_board))
    return {f"{each['uid']}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n" for each in made}


def main() -> None:
    SHIPPED.mkdir(exist_ok=True)
    for name, text in built().items():
        (SHIPPED / name).write_text(text, encoding="utf-8")
    rules.SHIPPED.write_text(rules.as_yaml(rules.document()), encoding="utf-8")


if __name__ == "__main__":
    main()
