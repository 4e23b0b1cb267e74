"""The stages, which read top to bottom: harvest -> explain -> probe -> score -> report."""

from glossator.pipeline.harvesting import ENGINES as ENGINES
from glossator.pipeline.harvesting import harvest as harvest
from glossator.pipeline.harvesting import harvest_folder as harvest_folder
from glossator.pipeline.harvesting import harvest_shard as harvest_shard
from glossator.pipeline.harvesting import merge as merge
from glossator.pipeline.labelling import compare_by_llm as compare_by_llm
from glossator.pipeline.labelling import demo as demo
from glossator.pipeline.labelling import explain as explain
from glossator.pipeline.labelling import explain_by_llm as explain_by_llm
from glossator.pipeline.labelling import label as label
from glossator.pipeline.labelling import probe as probe
from glossator.pipeline.labelling import probe_by_llm as probe_by_llm
from glossator.pipeline.labelling import score as score
from glossator.pipeline.labelling import score_by_embedding as score_by_embedding
from glossator.pipeline.labelling import score_by_llm as score_by_llm
from glossator.pipeline.labelling import validate as validate
from glossator.pipeline.searching import embed as embed
from glossator.pipeline.searching import search_similar as search_similar
from glossator.pipeline.searching import search_similar_to as search_similar_to
