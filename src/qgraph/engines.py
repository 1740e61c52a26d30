"""What a package needs to add an engine: see docs/guide/adding-an-engine.md."""

from qgraph._graph.flags import Flag
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.engines.protocol import DivisibleEngine, Engine, NodeScores, Timing
from qgraph._sensitivity.engines.question_engine import QuestionEngine
from qgraph._sensitivity.report import Score
from qgraph._sensitivity.scoring.computed_model import ComputedModel, computed
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.questions import Answerer, Question, References, Scored, Step
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import EngineOptions, Work, identity

__all__ = [
    "Answerer",
    "ComputedModel",
    "DivisibleEngine",
    "Engine",
    "EngineOptions",
    "Flag",
    "Journal",
    "NodeScores",
    "Question",
    "QuestionEngine",
    "References",
    "Runtime",
    "Scheme",
    "SchemeName",
    "Score",
    "ScoreTable",
    "Scored",
    "Step",
    "Timing",
    "Work",
    "computed",
    "identity",
]
