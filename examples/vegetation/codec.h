/* The compressions a TIFF strip or tile may carry, turned back into plain bytes.
 *
 * Each function fills at most `out_max` bytes and answers how many it wrote, or -1 when the data is damaged. Data that
 * holds more than `out_max` is cut there: the caller knows the size of a strip and asks for exactly that. Nothing here
 * compresses, and nothing allocates.
 */
#ifndef VEGETATION_CODEC_H
#define VEGETATION_CODEC_H

#include <stdint.h>

int64_t codec_copy(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max);
int64_t codec_packbits(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max);
/* TIFF's LZW: codes of 9 to 12 bits, most significant bit first, switching one code early. */
int64_t codec_lzw(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max);
/* zlib (RFC 1950) around deflate (RFC 1951). */
int64_t codec_zlib(const uint8_t *in, int64_t in_size, uint8_t *out, int64_t out_max);

#endif
