/* Decoders for PackBits, LZW and zlib, see codec.h. They trust no length they read. */
#include "codec.h"

#include <string.h>

int64_t codec_copy(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max)
{
    int64_t size = in_size < out_max ? in_size : out_max;
    memcpy(out, in, (size_t)size);
    return size;
}

int64_t codec_packbits(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max)
{
    int64_t at = 0, made = 0;
    while (at < in_size && made < out_max) {
        int32_t head = in[at++];
        if (head == 128)
            continue;
        int64_t run = head < 128 ? head + 1 : 257 - head;
        int64_t needed = head < 128 ? run : 1;
        if (needed > in_size - at)
            return -1;
        if (run > out_max - made)
            run = out_max - made;
        if (head < 128)
            memcpy(out + made, in + at, (size_t)run);
        else
            memset(out + made, in[at], (size_t)run);
        at += needed;
        made += run;
    }
    return made;
}

/* ---- LZW ---- */

enum { LZW_CLEAR = 256, LZW_END = 257, LZW_FIRST = 258, LZW_CODES = 4096 };

/* A code stands for bytes that were already written: the string of an older code and one more byte behind it. */
struct lzw_string {
    int64_t start;
    int64_t length;
};

int64_t codec_lzw(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max)
{
    static struct lzw_string strings[LZW_CODES];
    int64_t at = 0, made = 0;
    int64_t previous_start = 0, previous_length = 0;
    uint32_t held = 0;
    int32_t held_bits = 0, width = 9, next = LZW_FIRST;

    while (made < out_max) {
        while (held_bits < width) {
            if (at >= in_size)
                return made;
            held = (held << 8) | in[at++];
            held_bits += 8;
        }
        int32_t code = (int32_t)((held >> (held_bits - width)) & ((1u << width) - 1));
        held_bits -= width;

        if (code == LZW_END)
            return made;
        if (code == LZW_CLEAR) {
            width = 9;
            next = LZW_FIRST;
            previous_length = 0;
            continue;
        }

        int64_t start = made;
        if (code < 256) {
            out[made++] = (uint8_t)code;
        } else {
            int64_t from, length;
            if (code < next) {
                from = strings[code].start;
                length = strings[code].length;
            } else if (code == next && previous_length > 0) {
                from = previous_start;
                length = previous_length + 1;
            } else {
                return -1;
            }
            /* Byte by byte: the string may reach into the bytes being written. */
            for (int64_t i = 0; i < length && made < out_max; i++)
                out[made++] = out[from + i];
        }
        if (previous_length > 0 && next < LZW_CODES) {
            strings[next].start = previous_start;
            strings[next].length = previous_length + 1;
            next++;
        }
        previous_start = start;
        previous_length = made - start;
        /* The encoder's table is one entry ahead of ours, except after the first code. */
        if (next + 1 >= (1 << width) && width < 12)
            width++;
    }
    return made;
}

/* ---- deflate ---- */

enum { HUFFMAN_BITS = 15, HUFFMAN_SYMBOLS = 288 };

struct huffman {
    uint16_t count[HUFFMAN_BITS + 1];
    uint16_t symbol[HUFFMAN_SYMBOLS];
};

struct bits {
    const uint8_t *in;
    int64_t in_size;
    int64_t at;
    uint32_t held;
    int32_t held_bits;
    int32_t ended;
};

static int32_t bits_take(struct bits *b, int32_t wanted)
{
    while (b->held_bits < wanted) {
        if (b->at >= b->in_size) {
            b->ended = 1;
            return 0;
        }
        b->held |= (uint32_t)b->in[b->at++] << b->held_bits;
        b->held_bits += 8;
    }
    int32_t value = (int32_t)(b->held & ((1u << wanted) - 1));
    b->held >>= wanted;
    b->held_bits -= wanted;
    return value;
}

/* Canonical Huffman: shorter codes first, equal lengths by symbol. Answers -1 when the lengths claim too many codes. */
static int32_t huffman_build(struct huffman *h, const uint8_t *lengths, int32_t symbols)
{
    uint16_t offset[HUFFMAN_BITS + 2];
    int32_t left = 1;
    memset(h, 0, sizeof *h);
    for (int32_t i = 0; i < symbols; i++)
        h->count[lengths[i]]++;
    h->count[0] = 0;
    offset[1] = 0;
    for (int32_t length = 1; length <= HUFFMAN_BITS; length++) {
        left = left * 2 - h->count[length];
        if (left < 0)
            return -1;
        offset[length + 1] = (uint16_t)(offset[length] + h->count[length]);
    }
    for (int32_t i = 0; i < symbols; i++)
        if (lengths[i] != 0)
            h->symbol[offset[lengths[i]]++] = (uint16_t)i;
    return 0;
}

static int32_t huffman_take(struct bits *b, const struct huffman *h)
{
    int32_t code = 0, first = 0, index = 0;
    for (int32_t length = 1; length <= HUFFMAN_BITS; length++) {
        code |= bits_take(b, 1);
        if (b->ended)
            return -1;
        int32_t count = h->count[length];
        if (code - count < first)
            return h->symbol[index + (code - first)];
        index += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    return -1;
}

static int32_t codes_fixed(struct huffman *literals, struct huffman *distances)
{
    uint8_t lengths[HUFFMAN_SYMBOLS];
    for (int32_t i = 0; i < HUFFMAN_SYMBOLS; i++)
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    if (huffman_build(literals, lengths, HUFFMAN_SYMBOLS) < 0)
        return -1;
    memset(lengths, 5, 30);
    return huffman_build(distances, lengths, 30);
}

static int32_t codes_dynamic(struct bits *b, struct huffman *literals, struct huffman *distances)
{
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[320];
    int32_t literal_count = bits_take(b, 5) + 257;
    int32_t distance_count = bits_take(b, 5) + 1;
    int32_t order_count = bits_take(b, 4) + 4;
    if (b->ended || literal_count > 286 || distance_count > 30)
        return -1;
    memset(lengths, 0, sizeof lengths);
    for (int32_t i = 0; i < order_count; i++)
        lengths[order[i]] = (uint8_t)bits_take(b, 3);
    if (b->ended || huffman_build(literals, lengths, 19) < 0)
        return -1;

    int32_t filled = 0;
    while (filled < literal_count + distance_count) {
        int32_t symbol = huffman_take(b, literals);
        int32_t repeat = 1, value = symbol;
        if (symbol < 0)
            return -1;
        if (symbol == 16) {
            if (filled == 0)
                return -1;
            value = lengths[filled - 1];
            repeat = 3 + bits_take(b, 2);
        } else if (symbol == 17) {
            value = 0;
            repeat = 3 + bits_take(b, 3);
        } else if (symbol == 18) {
            value = 0;
            repeat = 11 + bits_take(b, 7);
        }
        if (b->ended || repeat > literal_count + distance_count - filled)
            return -1;
        memset(lengths + filled, value, (size_t)repeat);
        filled += repeat;
    }
    if (lengths[256] == 0)
        return -1;
    uint8_t distance_lengths[30];
    memcpy(distance_lengths, lengths + literal_count, (size_t)distance_count);
    if (huffman_build(literals, lengths, literal_count) < 0)
        return -1;
    return huffman_build(distances, distance_lengths, distance_count);
}

/* One block of literals and copies. Answers the new number of bytes made, or -1. */
static int64_t block_coded(struct bits *b, const struct huffman *literals, const struct huffman *distances, uint8_t *out,
                           int64_t made, int64_t out_max)
{
    static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                             31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t distance_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                               193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static const uint8_t distance_bits[30] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

    while (made < out_max) {
        int32_t symbol = huffman_take(b, literals);
        if (symbol < 0 || symbol > 285)
            return -1;
        if (symbol == 256)
            return made;
        if (symbol < 256) {
            out[made++] = (uint8_t)symbol;
            continue;
        }
        int64_t length = length_base[symbol - 257] + bits_take(b, length_bits[symbol - 257]);
        int32_t code = huffman_take(b, distances);
        if (code < 0 || code > 29)
            return -1;
        int64_t distance = distance_base[code] + bits_take(b, distance_bits[code]);
        if (b->ended || distance > made)
            return -1;
        for (int64_t i = 0; i < length && made < out_max; i++, made++)
            out[made] = out[made - distance];
    }
    return made;
}

static int64_t block_stored(struct bits *b, uint8_t *out, int64_t made, int64_t out_max)
{
    b->held = 0;
    b->held_bits = 0;
    if (b->in_size - b->at < 4)
        return -1;
    const uint8_t *head = b->in + b->at;
    int64_t length = head[0] | head[1] << 8;
    int64_t inverse = head[2] | head[3] << 8;
    b->at += 4;
    if ((length ^ 0xffff) != inverse || length > b->in_size - b->at)
        return -1;
    int64_t size = length < out_max - made ? length : out_max - made;
    memcpy(out + made, b->in + b->at, (size_t)size);
    b->at += length;
    return made + size;
}

int64_t codec_zlib(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max)
{
    struct bits b = {in, in_size, 2, 0, 0, 0};
    struct huffman literals, distances;
    int64_t made = 0;
    int32_t last = 0;
    if (in_size < 2 || (in[0] & 15) != 8 || (in[0] * 256 + in[1]) % 31 != 0 || (in[1] & 32) != 0)
        return -1;
    while (!last && made < out_max) {
        last = bits_take(&b, 1);
        int32_t kind = bits_take(&b, 2);
        if (b.ended || kind == 3)
            return -1;
        if (kind == 0) {
            made = block_stored(&b, out, made, out_max);
        } else {
            int32_t ok = kind == 1 ? codes_fixed(&literals, &distances) : codes_dynamic(&b, &literals, &distances);
            made = ok < 0 ? -1 : block_coded(&b, &literals, &distances, out, made, out_max);
        }
        if (made < 0)
            return -1;
    }
    return made;
}
