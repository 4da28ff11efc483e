"""Small faults in llama.cpp's own source, each an edit of one token, for benchmarks/mutants.py.

The places are those of the llama.cpp in llama-cpp-python 0.3.36, on a processor with AVX2. What a
mutant does was written down before the gate was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mutant_build import Edit

QUANTS = "ggml/src/ggml-quants.c"
CPU = "ggml/src/ggml-cpu/ggml-cpu.c"
OPS = "ggml/src/ggml-cpu/ops.cpp"
VEC = "ggml/src/ggml-cpu/vec.cpp"
REPACK = "ggml/src/ggml-cpu/repack.cpp"
TILED = "ggml/src/ggml-cpu/tiled/tiled.cpp"
TILED_KERNEL = "ggml/src/ggml-cpu/tiled/tiled-kernel.cpp"
X86_DOTS = "ggml/src/ggml-cpu/arch/x86/quants.c"
X86_REPACK = "ggml/src/ggml-cpu/arch/x86/repack.cpp"
MIX = "src/llama-quant.cpp"
GRAPH = "src/llama-graph.cpp"
VOCABULARY = "src/llama-vocab.cpp"
CACHE = "src/llama-kv-cache.cpp"
RECURRENT = "src/llama-memory-recurrent.cpp"


class Expected(Enum):
    """What the gate should say of a mutant; the value is what the table says."""

    QUANTIZER = "quantizer"
    RUNTIME = "runtime"
    TOKENIZER = "tokenizer"
    CRASH = "crash"
    HARMLESS = "nothing: it is as right as the original"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mutant: an edit, what it does, and the formats whose way it is on.

    ``resembles`` is a thread of llama.cpp with a regression of this kind; ``why_harmless`` the
    reason why a mutant that may change bits is no fault.
    """

    name: str
    what: str
    edit: Edit
    expected: Expected
    formats: tuple[str, ...]
    resembles: str = ""
    why_harmless: str = ""


def _mutant(
    name: str,
    what: str,
    expected: Expected,
    formats: str,
    place: tuple[str, str],
    token: tuple[str, str],
    *,
    resembles: str = "",
    why_harmless: str = "",
) -> Mutant:
    """Make a mutant; ``place`` is the file and what stands before it, ``token`` old and new."""
    edit = Edit(file=place[0], after=place[1], old=token[0], new=token[1])
    return Mutant(
        name=name,
        what=what,
        edit=edit,
        expected=expected,
        formats=tuple(formats.split()),
        resembles=resembles,
        why_harmless=why_harmless,
    )


_Q, _R, _T = Expected.QUANTIZER, Expected.RUNTIME, Expected.TOKENIZER

QUANTIZERS = (
    _mutant(
        "q4_0-scale",
        "Q4_0 quantizer: the scale is an eighth too large",
        _Q,
        "Q4_0",
        (QUANTS, "void quantize_row_q4_0_ref("),
        ("max / -8", "max / -7"),
    ),
    _mutant(
        "q4_0-rounding",
        "Q4_0 quantizer: half of the values are rounded down",
        _Q,
        "Q4_0",
        (QUANTS, "void quantize_row_q4_0_ref("),
        ("(x0 + 8.5f)", "(x0 + 8.0f)"),
    ),
    _mutant(
        "q5_0-high-bit",
        "Q5_0 quantizer: fifth bits are put one place too far",
        _Q,
        "Q5_0",
        (QUANTS, "void quantize_row_q5_0_ref("),
        ("<< (j + 0)", "<< (j + 1)"),
    ),
    _mutant(
        "q8_0-rounding",
        "Q8_0 quantizer: rounds down instead of to the nearest",
        _Q,
        "Q8_0",
        (QUANTS, "void quantize_row_q8_0_ref("),
        ("roundf(x0)", "floorf(x0)"),
    ),
    _mutant(
        "mxfp4-exponent",
        "MXFP4 quantizer: scales are twice as large",
        _Q,
        "MXFP4_MOE",
        (QUANTS, "void quantize_row_mxfp4_ref("),
        ("- 2 + 127", "- 1 + 127"),
    ),
    _mutant(
        "mxfp4-code",
        "MXFP4 quantizer: the last code is never used",
        _Q,
        "MXFP4_MOE",
        (QUANTS, "static inline int best_index_mxfp4("),
        ("i < 16", "i < 15"),
    ),
    _mutant(
        "q2_k-min",
        "Q2_K quantizer: the minima get the scales' scale",
        _Q,
        "Q2_K",
        (QUANTS, "void quantize_row_q2_K_ref("),
        ("max_min/q4scale", "max_scale/q4scale"),
    ),
    _mutant(
        "q3_k-scale-bits",
        "Q3_K quantizer: high bits of scales are put in the wrong place",
        _Q,
        "Q3_K_M",
        (QUANTS, "void quantize_row_q3_K_ref("),
        ("(2*(j/4))", "(2*(j/8))"),
    ),
    _mutant(
        "q3_k-high-bit",
        "Q3_K quantizer: the middle value loses its high bit",
        _Q,
        "Q3_K_M",
        (QUANTS, "void quantize_row_q3_K_ref("),
        ("L[j] > 3", "L[j] > 4"),
    ),
    _mutant(
        "q4_k-min",
        "Q4_K quantizer: minima are 1.6 % too small",
        _Q,
        "Q4_K_M Q4_K_S",
        (QUANTS, "void quantize_row_q4_K_ref("),
        ("max_min/63.f", "max_min/64.f"),
    ),
    _mutant(
        "q4_k-min-bits",
        "Q4_K quantizer: high bits of minima are one place off",
        _Q,
        "Q4_K_S",
        (QUANTS, "void quantize_row_q4_K_ref("),
        ("y[i].scales[j-0] |= ((lm >> 4) << 6)", "y[i].scales[j-0] |= ((lm >> 4) << 5)"),
    ),
    _mutant(
        "qkx2-search",
        "K-quants' search for a scale keeps the worst",
        _Q,
        "Q2_K Q4_K_S Q5_K_S",
        (QUANTS, "static float make_qkx2_quants("),
        ("cur_error < best_error", "cur_error > best_error"),
        resembles="#5856",
    ),
    _mutant(
        "q5_k-high-bit",
        "Q5_K quantizer: the middle value loses its high bit",
        _Q,
        "Q5_K_S",
        (QUANTS, "void quantize_row_q5_K_ref("),
        ("l2 > 15", "l2 > 16"),
    ),
    _mutant(
        "q6_k-clip",
        "Q6_K quantizer: positive values are cut at half",
        _Q,
        "Q6_K",
        (QUANTS, "void quantize_row_q6_K_ref("),
        ("MIN(31, l)", "MIN(15, l)"),
    ),
    _mutant(
        "iq4-search",
        "IQ4 quantizer: the search tries scales of the wrong sign",
        _Q,
        "IQ4_NL IQ4_XS",
        (QUANTS, "static void quantize_row_iq4_nl_impl("),
        ("(itry + values[0])/max", "(itry - values[0])/max"),
        resembles="#5856",
    ),
    _mutant(
        "iq4_xs-scale-bits",
        "IQ4_XS quantizer: high bits of scales are put twice in one place",
        _Q,
        "IQ4_XS",
        (QUANTS, "static void quantize_row_iq4_nl_impl("),
        ("2*(ib%8)", "2*(ib%4)"),
    ),
    _mutant(
        "mix-layers",
        "Q4_K_M: other layers get more bits",
        _Q,
        "Q4_K_M",
        (MIX, "auto use_more_bits"),
        ("%3 == 2", "%3 == 1"),
    ),
    _mutant(
        "mix-medium",
        "Q4_K_M: no expert gets more bits, as in Q4_K_S",
        _Q,
        "Q4_K_M",
        (MIX, "ftype == LLAMA_FTYPE_MOSTLY_Q4_K_M) {\n            if (arch == LLM_ARCH_FALCON)"),
        (
            "if (use_more_bits(i_layer, n_layer)) new_type = GGML_TYPE_Q6_K",
            "if (use_more_bits(i_layer, n_layer)) new_type = GGML_TYPE_Q4_K",
        ),
        resembles="#4872",
    ),
    _mutant(
        "mix-output",
        "the output matrix in Q4_K instead of Q6_K",
        _Q,
        "Q4_K_M",
        (MIX, "else if (new_type != GGML_TYPE_Q8_0)"),
        ("GGML_TYPE_Q6_K", "GGML_TYPE_Q4_K"),
    ),
    _mutant(
        "mix-fallback",
        "every tensor falls back to the type for odd shapes",
        _Q,
        "Q4_K_S",
        (MIX, "static ggml_type tensor_type_fallback("),
        ("ncols % qk_k != 0", "ncols % qk_k == 0"),
        resembles="#28474",
    ),
    _mutant(
        "iq4_nl-assert",
        "IQ4_NL quantizer: a check of the row's length is turned round",
        Expected.CRASH,
        "IQ4_NL",
        (QUANTS, "size_t quantize_iq4_nl("),
        ("n_per_row%QK4_NL == 0", "n_per_row%QK4_NL != 0"),
        resembles="#17677",
    ),
)

DOT_PRODUCTS = (
    _mutant(
        "q6_k-batch-1",
        "Q6_K dot product of one token: two high bits a place off",
        _R,
        "Q6_K",
        (X86_DOTS, "void ggml_vec_dot_q6_K_q8_K("),
        ("_mm256_and_si256(q4bitsH, m3), 4)", "_mm256_and_si256(q4bitsH, m3), 3)"),
        resembles="#4927",
    ),
    _mutant(
        "q5_k-batch-1",
        "Q5_K dot product of one token: minima are added",
        _R,
        "Q5_K_S",
        (X86_DOTS, "void ggml_vec_dot_q5_K_q8_K("),
        ("dmin = -y[i].d", "dmin = y[i].d"),
        resembles="#4927",
    ),
    _mutant(
        "q3_k-batch-1",
        "Q3_K dot product of one token: scales are one too large",
        _R,
        "Q3_K_M",
        (X86_DOTS, "void ggml_vec_dot_q3_K_q8_K("),
        ("_mm_set1_epi8(32)", "_mm_set1_epi8(31)"),
        resembles="#4927",
    ),
    _mutant(
        "iq4_xs-batch-1",
        "IQ4_XS dot product of one token: high bits of odd scales",
        _R,
        "IQ4_XS",
        (X86_DOTS, "void ggml_vec_dot_iq4_xs_q8_K("),
        ("((sh << 2) & 0x30)", "((sh << 4) & 0x30)"),
        resembles="#4927",
    ),
    _mutant(
        "q8_0-dot",
        "Q8_0 dot product: every block takes the first one's scale",
        _R,
        "Q8_0",
        (X86_DOTS, "void ggml_vec_dot_q8_0_q8_0("),
        ("(y[ib].d)", "(y[0].d)"),
    ),
    _mutant(
        "q5_0-dot",
        "Q5_0 dot product: a sign bit is not extended",
        _R,
        "Q5_0",
        (X86_DOTS, "void ggml_vec_dot_q5_0_q8_0("),
        ("(char)0xF0", "(char)0xE0"),
    ),
    _mutant(
        "mxfp4-not-repacked",
        "MXFP4 dot product without repacking: a wrong block's scale",
        _R,
        "MXFP4_MOE",
        (X86_DOTS, "void ggml_vec_dot_mxfp4_q8_0("),
        ("HALF(x[ib + 1].e)", "HALF(x[ib + 0].e)"),
    ),
    _mutant(
        "q8_0-activations",
        "activations in Q8_0: 0.8 % too small",
        _R,
        "Q8_0 Q5_0",
        (X86_DOTS, "void quantize_row_q8_0("),
        ("? 127.f / maxScalar", "? 126.f / maxScalar"),
    ),
    _mutant(
        "q8_k-sums",
        "activations in Q8_K: sums leave out each block's last value",
        _R,
        "Q5_K_S Q2_K",
        (QUANTS, "void quantize_row_q8_K_ref("),
        ("ii < 16", "ii < 15"),
    ),
    _mutant(
        "q4_k-rows",
        "Q4_K rows by themselves: the minimum of the wrong half",
        _R,
        "Q4_K_M",
        (QUANTS, "void dequantize_row_q4_K("),
        ("(q[l]  >> 4) - m2", "(q[l]  >> 4) - m1"),
    ),
)

TILES = (
    _mutant(
        "tile-q6_k",
        "Q6_K in tiles: a quarter of the values lose their top bit",
        _R,
        "Q6_K",
        (TILED, "static void tiled_unpack_src0(const block_q6_K"),
        ("tiled_unpk_or<6, 4, 3>", "tiled_unpk_or<6, 4, 1>"),
    ),
    _mutant(
        "tile-q5_k",
        "Q5_K in tiles: an eighth takes its neighbour's fifth bits",
        _R,
        "Q5_K_S",
        (TILED, "static void tiled_unpack_src0(const block_q5_K"),
        ("tiled_unpk_or<7, 4, 1>", "tiled_unpk_or<6, 4, 1>"),
    ),
    _mutant(
        "tile-q3_k",
        "Q3_K in tiles: scales are one too large",
        _R,
        "Q3_K_M",
        (TILED, "static void tiled_unpack_src0(const block_q3_K"),
        ("scales[s] - 32", "scales[s] - 31"),
    ),
    _mutant(
        "tile-q2_k-min",
        "Q2_K in tiles: odd groups take their neighbour's minimum",
        _R,
        "Q2_K",
        (TILED_KERNEL, "static void tiled_run_microtile_avx2("),
        ("mins_row[sp + 1]", "mins_row[sp + 0]"),
    ),
    _mutant(
        "tile-iq4_xs-scale", "IQ4_XS in tiles: scales lose their top bit", _R, "IQ4_XS",
        (TILED, "static void tiled_unpack_src0(const block_iq4_xs"),
        ("(x.scales_h >> 2 * s) & 3", "(x.scales_h >> 2 * s) & 1"),
    ),
    _mutant(
        "tile-from-9",
        "tiles from 9 tokens on instead of 8",
        Expected.HARMLESS,
        "Q6_K",
        (TILED, "static bool ggml_tiled_min_batch("),
        ("return rows >= 8", "return rows >= 9"),
        why_harmless="batches of 8 take the other, equally right kernel",
    ),
    _mutant(
        "tile-off",
        "tiles are never used: slower, and right",
        Expected.HARMLESS,
        "Q6_K",
        (TILED, "static bool ggml_tiled_matmul_enabled("),
        ("env == NULL", "env != NULL"),
        resembles="#7443",
        why_harmless="the other kernel is as right, only slower",
    ),
)

REPACKING = (
    _mutant(
        "repack-q4_k-scales",
        "repacking Q4_K: high bits of a scale a place off",
        _R,
        "Q4_K_S",
        (REPACK, "static block_q4_Kx8 make_block_q4_Kx8("),
        ("((s[4] & 48) << 2)", "((s[4] & 48) << 1)"),
        resembles="#12528",
    ),
    _mutant(
        "repack-q4_0-scales",
        "repacking Q4_0: eight rows share the first one's scale",
        _R,
        "Q4_0",
        (REPACK, "static block_q4_0x8 make_block_q4_0x8("),
        ("in[i].d", "in[0].d"),
        resembles="#19561",
    ),
    _mutant(
        "repack-q4_k-one",
        "repacked Q4_K, one token: minima are added",
        _R,
        "Q4_K_S",
        (X86_REPACK, "void ggml_gemv_q4_K_8x8_q8_K("),
        ("_mm256_sub_ps(acc_row, acc_min_rows)", "_mm256_add_ps(acc_row, acc_min_rows)"),
        resembles="#4927",
    ),
    _mutant(
        "repack-mxfp4-one",
        "repacked MXFP4, one token: a row takes another's scale",
        _R,
        "MXFP4_MOE",
        (X86_REPACK, "// Rearranged to match changemask order"),
        ("b_ptr[b].e[6]", "b_ptr[b].e[7]"),
    ),
    _mutant(
        "repack-four-rows",
        "repacked Q4_0, four tokens: the second takes the first one's scale",
        _R,
        "Q4_0",
        (X86_REPACK, "// Load the scale(d) values for all the 4 Q8_0 blocks and"),
        (
            "acc_rows[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(iacc_row_1), _mm256_mul_ps("
            "col_scale_f32, _mm256_shuffle_ps(row_scale_f32, row_scale_f32, 85))",
            "acc_rows[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(iacc_row_1), _mm256_mul_ps("
            "col_scale_f32, _mm256_shuffle_ps(row_scale_f32, row_scale_f32, 0))",
        ),
    ),
    _mutant(
        "repack-activations",
        "activations for repacked Q4_0: the last eight are the sixth's",
        _R,
        "Q4_0 IQ4_NL",
        (X86_REPACK, "void ggml_quantize_mat_q8_0_4x8("),
        ("2, 6, 3, 7 )", "2, 6, 3, 6 )"),
    ),
    _mutant(
        "repack-batch-4",
        "repacked weights, exactly four tokens: nothing is computed",
        _R,
        "Q4_0",
        (REPACK, "void forward_mul_mat_one_chunk("),
        ("if (nrows > 3)", "if (nrows > 4)"),
        resembles="#4927",
    ),
)

MODEL = (
    _mutant(
        "router-bias",
        "router: the bias of the experts is left out",
        _R,
        "Q8_0",
        (GRAPH, "selected_experts == nullptr"),
        ("ctx0, selection_probs, n_expert_used", "ctx0, probs, n_expert_used"),
    ),
    _mutant(
        "router-weights",
        "router: experts' weights are multiplied by their sum",
        _R,
        "Q8_0",
        (GRAPH, "ffn_moe_weights_sum_clamped"),
        ("ggml_div(ctx0, weights", "ggml_mul(ctx0, weights"),
    ),
    _mutant(
        "router-gate",
        "router: SiLU instead of a sigmoid",
        _R,
        "Q8_0",
        (GRAPH, "case LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID:"),
        ("ggml_sigmoid", "ggml_silu"),
    ),
    _mutant(
        "norm-epsilon",
        "RMS norm: epsilon is subtracted",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_rms_norm_f32("),
        ("mean + eps", "mean - eps"),
        resembles="#12439",
    ),
    _mutant(
        "norm-weight",
        "fused RMS norm: all columns take the first one's weight",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_rms_norm_f32("),
        ("w[i00]", "w[0]"),
    ),
    _mutant(
        "rope-base",
        "RoPE: frequencies fall 5 % faster",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_rope_flt("),
        ("-2.0f/n_dims", "-2.1f/n_dims"),
    ),
    _mutant(
        "swiglu",
        "SwiGLU: the gate is multiplied by itself",
        _R,
        "Q8_0",
        (
            VEC,
            "#elif defined(__AVX2__) && defined(__FMA__)\n    for (; i + 7 < n; i += 8) {\n"
            "        _mm256_storeu_ps(y + i, _mm256_mul_ps(",
        ),
        ("_mm256_loadu_ps(g + i)", "_mm256_loadu_ps(x + i)"),
    ),
    _mutant(
        "convolution",
        "short convolution: the oldest tap is left out",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_ssm_conv_f32("),
        ("int i0 = 0", "int i0 = 1"),
    ),
    _mutant(
        "softmax-tail",
        "softmax: the last eight values by the scalar loop",
        Expected.HARMLESS,
        "Q8_0",
        (VEC, "ggml_float ggml_vec_soft_max_f32("),
        (
            "#elif defined(__AVX2__) && defined(__FMA__)\n    for (; i + 7 < n",
            "#elif defined(__AVX2__) && defined(__FMA__)\n    for (; i + 8 < n",
        ),
        why_harmless="the scalar loop computes the same, rounded in another way",
    ),
)

ATTENTION = (
    _mutant(
        "mask-self",
        "attention mask: a token does not see itself",
        _R,
        "Q8_0",
        (CACHE, "// mask future tokens"),
        ("p0 > p1", "p0 >= p1"),
    ),
    _mutant(
        "mask-past",
        "attention mask: the past is hidden instead of the future",
        _R,
        "Q8_0",
        (CACHE, "// mask future tokens"),
        ("p0 > p1", "p0 < p1"),
    ),
    _mutant(
        "mask-margin",
        "attention mask: a margin of 31 positions instead of 32",
        Expected.HARMLESS,
        "Q8_0",
        (CACHE, "// record all cells for which"),
        ("if (p0 + (int32_t) (n_swa + 32)", "if (p0 + (int32_t) (n_swa + 31)"),
        why_harmless="the masks of two tokens differ in the batch's own positions alone",
    ),
    _mutant(
        "flash-tiles",
        "flash attention in tiles: the sum is not carried on",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_flash_attn_ext_tiled("),
        ("S[tq] *= ms", "S[tq] = ms"),
        resembles="#13430",
    ),
    _mutant(
        "flash-scale",
        "flash attention in tiles: scores are not scaled",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_flash_attn_ext_tiled("),
        ("KV_TILE_SZ, KQ, scale)", "KV_TILE_SZ, KQ, slope)"),
        resembles="#11715",
    ),
    _mutant(
        "flash-one",
        "flash attention, one token: a new maximum scales the wrong way",
        _R,
        "Q8_0",
        (OPS, "static void ggml_compute_forward_flash_attn_ext_f16_one_chunk("),
        ("ms = expf(Mold - M)", "ms = expf(Mold + M)"),
        resembles="#13430",
    ),
    _mutant(
        "cache-padding",
        "key-value cache: looked at in steps of 512 cells",
        Expected.HARMLESS,
        "Q8_0",
        (CACHE, "uint32_t llama_kv_cache::get_n_kv("),
        ("256u", "512u"),
        why_harmless="the further cells are masked",
    ),
    _mutant(
        "cache-values",
        "key-value cache: the values of a batch lie a cell too far",
        _R,
        "Q8_0",
        (CACHE, "void llama_kv_cache::set_input_v_idxs("),
        (
            "data[s*sinfo.size() + i] = offs + sinfo.idxs[s][i]",
            "data[s*sinfo.size() + i] = offs + sinfo.idxs[s][0]",
        ),
    ),
    _mutant(
        "state-copy",
        "recurrent state: a batch does not go on where the last one ended",
        _R,
        "Q8_0",
        (RECURRENT, "// Find first cell without src refs, to use as the zero-ed state"),
        ("refcounts[i] == 0", "refcounts[i] >= 0"),
        resembles="#4927",
    ),
)

TOKENIZERS = (
    _mutant(
        "pre-tokenizer",
        "the pre-tokenizer of another model",
        _T,
        "Q8_0",
        (VOCABULARY, 'tokenizer_pre == "qwen2"'),
        ("LLAMA_VOCAB_PRE_TYPE_QWEN2", "LLAMA_VOCAB_PRE_TYPE_GPT2"),
        resembles="#6920",
    ),
    _mutant(
        "merges-order",
        "byte-pair merges: of equal rank the right one first",
        _T,
        "Q8_0",
        (VOCABULARY, "struct llm_bigram_bpe {"),
        ("l.left > r.left", "l.left < r.left"),
    ),
    _mutant(
        "merges-left",
        "byte-pair merges: pairs to the left are not looked at again",
        _T,
        "Q8_0",
        (VOCABULARY, "// remove the right sym from the chain"),
        (
            "add_new_bigram(left_symbol.prev, bigram.left)",
            "add_new_bigram(left_symbol.next, bigram.left)",
        ),
    ),
)

MUTANTS = (
    *QUANTIZERS, *DOT_PRODUCTS, *TILES, *REPACKING, *MODEL, *ATTENTION, *TOKENIZERS,
)  # fmt: skip
