/* PNG out, see png.h: the cells, squeezed with deflate's fixed Huffman code and a small table of earlier places.
 *
 * It doesn't look for the best match, only for the latest with the same three bytes; a map compresses to about two thirds. */
#include "png.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HASH_SIZE = 1 << 13, WINDOW = 32768, MATCH_MIN = 4, MATCH_MAX = 258 };

struct deflate {
    uint8_t *out;
    int64_t made;
    uint32_t held;
    int32_t held_bits;
};

static void put_big(uint8_t *p, uint32_t value)
{
    for (int32_t i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint32_t crc32_of(uint32_t crc, const uint8_t *bytes, int64_t size)
{
    crc = ~crc;
    for (int64_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int32_t k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static uint32_t adler32_of(const uint8_t *bytes, int64_t size)
{
    uint32_t a = 1, b = 0;
    for (int64_t i = 0; i < size; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void bits_put(struct deflate *d, uint32_t value, int32_t bits)
{
    d->held |= value << d->held_bits;
    d->held_bits += bits;
    while (d->held_bits >= 8) {
        d->out[d->made++] = (uint8_t)d->held;
        d->held >>= 8;
        d->held_bits -= 8;
    }
}

/* Huffman codes go out with their first bit first, all else in deflate with the last. */
static void code_put(struct deflate *d, uint32_t code, int32_t bits)
{
    uint32_t turned = 0;
    for (int32_t i = 0; i < bits; i++)
        turned |= ((code >> i) & 1) << (bits - 1 - i);
    bits_put(d, turned, bits);
}

static void symbol_put(struct deflate *d, uint32_t symbol)
{
    if (symbol < 144)
        code_put(d, 0x30 + symbol, 8);
    else if (symbol < 256)
        code_put(d, 0x190 + symbol - 144, 9);
    else if (symbol < 280)
        code_put(d, symbol - 256, 7);
    else
        code_put(d, 0xc0 + symbol - 280, 8);
}

/* Lengths grow in groups of four symbols, distances in groups of two; each group has one more extra bit. */
static void match_put(struct deflate *d, uint32_t length, uint32_t distance)
{
    if (length == MATCH_MAX) {
        symbol_put(d, 285);
    } else {
        uint32_t value = length - 3;
        int32_t extra = 0;
        while ((value >> extra) >= 8)
            extra++;
        symbol_put(d, 257 + 4 * (uint32_t)extra + (value >> extra));
        bits_put(d, value & ((1u << extra) - 1), extra);
    }
    uint32_t value = distance - 1;
    int32_t extra = 0;
    while ((value >> extra) >= 4)
        extra++;
    code_put(d, 2 * (uint32_t)extra + (value >> extra), 5);
    bits_put(d, value & ((1u << extra) - 1), extra);
}

static int64_t match_length(const uint8_t *raw, int64_t size, int64_t earlier, int64_t at)
{
    int64_t length = 0, limit = size - at < MATCH_MAX ? size - at : MATCH_MAX;
    while (length < limit && raw[earlier + length] == raw[at + length])
        length++;
    return length;
}

/* The zlib stream of `raw`; `out` has room for 9 bits per byte and 16 bytes more. */
static int64_t zlib_squeeze(const uint8_t *raw, int64_t size, uint8_t *out)
{
    static int64_t latest[HASH_SIZE];
    struct deflate d = {out, 0, 0, 0};
    for (int32_t i = 0; i < HASH_SIZE; i++)
        latest[i] = -1;
    d.out[d.made++] = 0x78;
    d.out[d.made++] = 0x01;
    bits_put(&d, 1, 1);
    bits_put(&d, 1, 2);
    for (int64_t at = 0; at < size;) {
        int64_t length = 0, earlier = -1;
        if (at + MATCH_MIN <= size) {
            uint32_t key = (uint32_t)raw[at] | (uint32_t)raw[at + 1] << 8 | (uint32_t)raw[at + 2] << 16;
            uint32_t slot = (key * 2654435761u) >> 19;
            earlier = latest[slot];
            latest[slot] = at;
            if (earlier >= 0 && at - earlier <= WINDOW)
                length = match_length(raw, size, earlier, at);
        }
        if (length >= MATCH_MIN) {
            match_put(&d, (uint32_t)length, (uint32_t)(at - earlier));
            at += length;
        } else {
            symbol_put(&d, raw[at++]);
        }
    }
    symbol_put(&d, 256);
    bits_put(&d, 0, 7);
    put_big(d.out + d.made, adler32_of(raw, size));
    return d.made + 4;
}

static int32_t chunk_write(FILE *stream, const char *name, const uint8_t *bytes, int64_t size)
{
    uint8_t head[8], tail[4];
    put_big(head, (uint32_t)size);
    memcpy(head + 4, name, 4);
    put_big(tail, crc32_of(crc32_of(0, head + 4, 4), bytes, size));
    return fwrite(head, 1, 8, stream) == 8 && fwrite(bytes, 1, (size_t)size, stream) == (size_t)size &&
           fwrite(tail, 1, 4, stream) == 4;
}

int32_t png_write(const char *path, int32_t width, int32_t height, const uint8_t *cells, const uint8_t palette[256][3])
{
    static const uint8_t start[8] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10};
    uint8_t head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 3, 0, 0, 0};
    const uint8_t clear[1] = {0};
    int64_t raw_size = ((int64_t)width + 1) * height;
    uint8_t *raw = malloc((size_t)raw_size);
    uint8_t *packed = malloc((size_t)(raw_size + raw_size / 8 + 32));
    FILE *stream = raw != NULL && packed != NULL ? fopen(path, "wb") : NULL;
    int32_t ok = stream != NULL;
    if (ok) {
        for (int32_t row = 0; row < height; row++) {
            raw[((int64_t)width + 1) * row] = 0;
            memcpy(raw + ((int64_t)width + 1) * row + 1, cells + (int64_t)width * row, (size_t)width);
        }
        put_big(head, (uint32_t)width);
        put_big(head + 4, (uint32_t)height);
        int64_t packed_size = zlib_squeeze(raw, raw_size, packed);
        ok = fwrite(start, 1, 8, stream) == 8 && chunk_write(stream, "IHDR", head, 13) &&
             chunk_write(stream, "PLTE", &palette[0][0], 768) && chunk_write(stream, "tRNS", clear, 1) &&
             chunk_write(stream, "IDAT", packed, packed_size) && chunk_write(stream, "IEND", clear, 0);
        int32_t cause = errno;
        ok = fclose(stream) == 0 && ok;
        errno = cause;
    }
    free(raw);
    free(packed);
    return ok ? 0 : -1;
}
