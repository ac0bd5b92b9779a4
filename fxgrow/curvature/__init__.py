"""Curvature: how much the loss would gain if a neuron had more capacity, measured at every neuron."""

from fxgrow.curvature.analysis import analyze as analyze
from fxgrow.curvature.probe import Probe as Probe
from fxgrow.curvature.probe_data import FewSamplesWarning as FewSamplesWarning
from fxgrow.curvature.registry import Measurement as Measurement
from fxgrow.curvature.registry import Score as Score
from fxgrow.curvature.registry import find_score as find_score
from fxgrow.curvature.registry import score_names as score_names
from fxgrow.curvature.scores import Scores as Scores
from fxgrow.curvature.scores import SiteScores as SiteScores
from fxgrow.curvature.spectrum import Spectrum as Spectrum
from fxgrow.curvature.spectrum import spectra as spectra
from fxgrow.curvature.step_recorder import StepRecorder as StepRecorder
from fxgrow.curvature.unit_scores import analyze_units as analyze_units
