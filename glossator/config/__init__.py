"""One small frozen config per stage, and where the files that we ship lie. The only reader of the environment and of TOML.

A config is a value: equal configs give equal results, and `digest` names them in the run file.
"""

from glossator.config.asking import TRACING as TRACING
from glossator.config.asking import LLMConfig as LLMConfig
from glossator.config.asking import quiet_tracing as quiet_tracing
from glossator.config.explaining import BestOfConfig as BestOfConfig
from glossator.config.explaining import CascadeConfig as CascadeConfig
from glossator.config.explaining import ContrastiveConfig as ContrastiveConfig
from glossator.config.explaining import DebateConfig as DebateConfig
from glossator.config.explaining import EditorConfig as EditorConfig
from glossator.config.explaining import ExplainerConfig as ExplainerConfig
from glossator.config.explaining import LabelConfig as LabelConfig
from glossator.config.explaining import LexicalConfig as LexicalConfig
from glossator.config.explaining import LogitsConfig as LogitsConfig
from glossator.config.explaining import OneshotConfig as OneshotConfig
from glossator.config.explaining import RefineConfig as RefineConfig
from glossator.config.explaining import WritingConfig as WritingConfig
from glossator.config.explaining import wide_editor as wide_editor
from glossator.config.harvest import CONTROLS as CONTROLS
from glossator.config.harvest import DEMO_HOOK as DEMO_HOOK
from glossator.config.harvest import DEMO_MODEL as DEMO_MODEL
from glossator.config.harvest import NEAR_BY as NEAR_BY
from glossator.config.harvest import ControlConfig as ControlConfig
from glossator.config.harvest import CorpusConfig as CorpusConfig
from glossator.config.harvest import HarvestConfig as HarvestConfig
from glossator.config.harvest import Recipe as Recipe
from glossator.config.harvest import SubjectConfig as SubjectConfig
from glossator.config.harvest import check_controls as check_controls
from glossator.config.harvest import check_near_by as check_near_by
from glossator.config.harvest import elsewhere as elsewhere
from glossator.config.harvest import harvest_recipe as harvest_recipe
from glossator.config.harvest import located as located
from glossator.config.harvest import subject_config as subject_config
from glossator.config.night import FeaturesSection as FeaturesSection
from glossator.config.night import Mistake as Mistake
from glossator.config.night import Night as Night
from glossator.config.night import Written as Written
from glossator.config.night import read_night as read_night
from glossator.config.night import refuse as refuse
from glossator.config.scoring import CompareConfig as CompareConfig
from glossator.config.scoring import EmbeddingConfig as EmbeddingConfig
from glossator.config.scoring import ImportConfig as ImportConfig
from glossator.config.scoring import LLMScoreConfig as LLMScoreConfig
from glossator.config.scoring import ScoreConfig as ScoreConfig
from glossator.config.shipped import data_path as data_path
from glossator.config.shipped import demo_model as demo_model
