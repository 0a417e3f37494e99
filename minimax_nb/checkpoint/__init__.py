"""Checkpoint folders on disk: read without loading, converted, written all or nothing, and restored again."""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__,
    convert="patch_checkpoint plan_conversion describe is_finished",
    shards="permute unpermute shard_names",
    folder="INDEX expected_shapes qk_names value_count read_config read_headers merge check_tensors",
    text_files="convert_tokenizer",
    chat_templates="prefix_template",
    tokenizer_check="verify_tokenizer",
    restore="restore_checkpoint",
    layout="original_weights",
)
