/* Reading a GeoTIFF scene and writing one-band float32 GeoTIFFs that lie on the same ground.
 *
 * Read: both byte orders, strips and tiles, chunky and planar, integers of 8, 16 and 32 bits and floats of 32 and 64,
 * plain, PackBits, LZW and Deflate, predictors 1, 2 and 3. Not read: BigTIFF, JPEG, palettes' colours, more than the
 * first image of a file. The file is held in memory while it is decoded.
 */
#ifndef VEGETATION_TIFF_H
#define VEGETATION_TIFF_H

#include <stdint.h>

enum { TIFF_KEPT_MAX = 6, TIFF_ERROR_SIZE = 256 };

/* A tag that says where the image lies; its bytes are little-endian already. */
struct tiff_tag {
    uint16_t tag;
    uint16_t type;
    uint32_t count;
    uint32_t size;
    uint8_t *bytes;
};

struct tiff_image {
    int32_t width;
    int32_t height;
    int32_t bands;
    int32_t bits;     /* per sample: 8, 16, 32 or 64 */
    int32_t is_float;
    double *samples;  /* [band][row][column] */
    int32_t kept;
    struct tiff_tag keep[TIFF_KEPT_MAX];
    int32_t has_nodata;
    double nodata;
};

/* 0, or -1 with a sentence in `error`. */
int32_t tiff_read(const char *path, struct tiff_image *image, char error[TIFF_ERROR_SIZE]);
void tiff_free(struct tiff_image *image);

/* Writes one plane of the size of `like` with its ground tags; NaN is the missing value and is said so in the file. */
int32_t tiff_write(const char *path, const struct tiff_image *like, const float *plane, char error[TIFF_ERROR_SIZE]);

#endif
