"""Fault scenarios that users can run, and the judge of what they lost: nothing, or the command fails."""

from mlproducer.reliability.book import Moment
from mlproducer.reliability.report import MEASURES, Report
from mlproducer.reliability.scenarios import GROUPS, NAMES, Scenario, Workshop, chosen, workshop

__all__ = ["GROUPS", "MEASURES", "NAMES", "Moment", "Report", "Scenario", "Workshop", "chosen", "workshop"]
