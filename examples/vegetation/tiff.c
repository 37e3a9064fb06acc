/* GeoTIFF in and out, see tiff.h.
 *
 * The life of a reading: the whole file -> the directory's fields -> one strip or tile after the other is decompressed
 * into a buffer, its predictor is undone there, and its samples land as doubles in one plane per band. Every offset
 * and count from the file is checked against the file's size before it is used. */
#include "tiff.h"

#include "codec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILE_BYTES_MAX = 1 << 30,
    SIDE_MAX = 1 << 17,
    BANDS_MAX = 256,
    SAMPLES_MAX = 1 << 26, /* 512 MiB as doubles */
};

enum {
    TAG_WIDTH = 256, TAG_HEIGHT = 257, TAG_BITS = 258, TAG_COMPRESSION = 259, TAG_FILL_ORDER = 266,
    TAG_STRIP_OFFSETS = 273, TAG_SAMPLES_PER_PIXEL = 277, TAG_ROWS_PER_STRIP = 278, TAG_STRIP_BYTES = 279,
    TAG_PLANAR = 284, TAG_PREDICTOR = 317, TAG_TILE_WIDTH = 322, TAG_TILE_HEIGHT = 323, TAG_TILE_OFFSETS = 324,
    TAG_TILE_BYTES = 325, TAG_SAMPLE_FORMAT = 339, TAG_NODATA = 42113,
};

static const uint16_t ground_tags[TIFF_KEPT_MAX] = {33550, 33922, 34264, 34735, 34736, 34737};

struct file {
    uint8_t *bytes;
    int64_t size;
    int32_t big_endian;
};

struct field {
    uint16_t type;
    uint32_t count;
    int32_t width;       /* bytes of one value */
    int64_t at;          /* of the first value in the file */
};

/* How the file cuts the image into strips or tiles. */
struct layout {
    int32_t unit_width, unit_height;
    int32_t across, down;
    int32_t tiled;
    int32_t planar;
    int32_t unit_bands;  /* samples beside each other in one unit */
    int32_t compression, predictor;
    int32_t format;      /* 1 unsigned, 2 signed, 3 float */
    int32_t bytes;       /* per sample */
    struct field offsets, sizes;
};

static int32_t fail(char *error, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(error, TIFF_ERROR_SIZE, format, list);
    va_end(list);
    return -1;
}

static uint64_t number(const uint8_t *p, int32_t width, int32_t big_endian)
{
    uint64_t value = 0;
    for (int32_t i = 0; i < width; i++)
        value |= (uint64_t)p[i] << (8 * (big_endian ? width - 1 - i : i));
    return value;
}

static int32_t type_width(uint16_t type)
{
    static const uint8_t widths[13] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8};
    return type < 13 ? widths[type] : 0;
}

static int32_t file_load(const char *path, struct file *file, char *error)
{
    FILE *stream = fopen(path, "rb");
    if (stream == NULL)
        return fail(error, "open %s: %s", path, strerror(errno));
    int64_t size = -1;
    if (fseek(stream, 0, SEEK_END) == 0)
        size = (int64_t)ftell(stream);
    if (size < 0 || size > FILE_BYTES_MAX || fseek(stream, 0, SEEK_SET) != 0) {
        fclose(stream);
        return fail(error, "%s: the size %" PRId64 " is not one of a file up to %d bytes", path, size, (int)FILE_BYTES_MAX);
    }
    file->bytes = malloc(size > 0 ? (size_t)size : 1);
    file->size = size;
    if (file->bytes == NULL || fread(file->bytes, 1, (size_t)size, stream) != (size_t)size) {
        fclose(stream);
        return fail(error, "%s: can't read its %" PRId64 " bytes", path, size);
    }
    fclose(stream);
    return 0;
}

/* ---- the directory ---- */

static int64_t directory_start(const char *path, struct file *file, char *error)
{
    const uint8_t *b = file->bytes;
    if (file->size < 8 || !((b[0] == 'I' && b[1] == 'I') || (b[0] == 'M' && b[1] == 'M')))
        return fail(error, "%s is not a TIFF file", path);
    file->big_endian = b[0] == 'M';
    int32_t version = (int32_t)number(b + 2, 2, file->big_endian);
    if (version == 43)
        return fail(error, "%s is a BigTIFF (version 43); convert it to a classic TIFF", path);
    if (version != 42)
        return fail(error, "%s: TIFF version %d, expected 42", path, (int)version);
    int64_t at = (int64_t)number(b + 4, 4, file->big_endian);
    if (at < 8 || at > file->size - 2)
        return fail(error, "%s: the directory at %" PRId64 " is outside of the file", path, at);
    return at;
}

/* 1 when the directory has the tag, 0 when not, -1 when its values are outside of the file. */
static int32_t field_find(const struct file *file, int64_t directory, int32_t tag, struct field *field)
{
    int32_t entries = (int32_t)number(file->bytes + directory, 2, file->big_endian);
    for (int32_t i = 0; i < entries; i++) {
        int64_t at = directory + 2 + 12 * (int64_t)i;
        if (at + 12 > file->size)
            return -1;
        const uint8_t *entry = file->bytes + at;
        if ((int32_t)number(entry, 2, file->big_endian) != tag)
            continue;
        field->type = (uint16_t)number(entry + 2, 2, file->big_endian);
        field->count = (uint32_t)number(entry + 4, 4, file->big_endian);
        field->width = type_width(field->type);
        int64_t size = (int64_t)field->count * field->width;
        field->at = size <= 4 ? at + 8 : (int64_t)number(entry + 8, 4, file->big_endian);
        if (field->width == 0 || field->count == 0 || size > file->size || field->at > file->size - size)
            return -1;
        return 1;
    }
    return 0;
}

static int64_t field_value(const struct file *file, const struct field *field, uint32_t index)
{
    return (int64_t)number(file->bytes + field->at + (int64_t)index * field->width, field->width, file->big_endian);
}

/* A tag that is one number, or one equal number per band. */
static int32_t field_number(const struct file *file, int64_t directory, int32_t tag, int64_t otherwise, int64_t *value,
                            char *error)
{
    struct field field;
    int32_t found = field_find(file, directory, tag, &field);
    if (found < 0)
        return fail(error, "TIFF tag %d is damaged", (int)tag);
    *value = otherwise;
    if (found == 0)
        return 0;
    if (field.type != 1 && field.type != 3 && field.type != 4)
        return fail(error, "TIFF tag %d has type %d, expected 1, 3 or 4", (int)tag, (int)field.type);
    *value = field_value(file, &field, 0);
    for (uint32_t i = 1; i < field.count; i++)
        if (field_value(file, &field, i) != *value)
            return fail(error, "TIFF tag %d differs between bands (%" PRId64 " and %" PRId64 "), which is not supported",
                        (int)tag, *value, field_value(file, &field, i));
    return 0;
}

static int32_t size_read(const struct file *file, int64_t directory, struct tiff_image *image, char *error)
{
    int64_t width, height, bands;
    if (field_number(file, directory, TAG_WIDTH, 0, &width, error) < 0 ||
        field_number(file, directory, TAG_HEIGHT, 0, &height, error) < 0 ||
        field_number(file, directory, TAG_SAMPLES_PER_PIXEL, 1, &bands, error) < 0)
        return -1;
    if (width < 1 || height < 1 || bands < 1 || width > SIDE_MAX || height > SIDE_MAX || bands > BANDS_MAX ||
        width * height * bands > SAMPLES_MAX)
        return fail(error, "an image of %" PRId64 " x %" PRId64 " x %" PRId64 " bands; the limit is %d samples, cut the scene",
                    width, height, bands, (int)SAMPLES_MAX);
    image->width = (int32_t)width;
    image->height = (int32_t)height;
    image->bands = (int32_t)bands;
    return 0;
}

static int32_t sample_read(const struct file *file, int64_t directory, struct tiff_image *image, struct layout *layout,
                           char *error)
{
    int64_t bits, format, compression, predictor, fill;
    if (field_number(file, directory, TAG_BITS, 1, &bits, error) < 0 ||
        field_number(file, directory, TAG_SAMPLE_FORMAT, 1, &format, error) < 0 ||
        field_number(file, directory, TAG_COMPRESSION, 1, &compression, error) < 0 ||
        field_number(file, directory, TAG_PREDICTOR, 1, &predictor, error) < 0 ||
        field_number(file, directory, TAG_FILL_ORDER, 1, &fill, error) < 0)
        return -1;
    if (format == 4)
        format = 1;
    if (format < 1 || format > 3)
        return fail(error, "sample format %" PRId64 "; 1 (unsigned), 2 (signed) and 3 (float) are supported", format);
    if (format == 3 ? bits != 32 && bits != 64 : bits != 8 && bits != 16 && bits != 32)
        return fail(error, "%" PRId64 "-bit %s samples; integers of 8, 16, 32 bits and floats of 32, 64 are supported", bits,
                    format == 3 ? "float" : "integer");
    if (compression != 1 && compression != 5 && compression != 8 && compression != 32946 && compression != 32773)
        return fail(error, "compression %" PRId64 "%s; 1 (none), 5 (LZW), 8 and 32946 (Deflate), 32773 (PackBits) are supported",
                    compression, compression == 6 || compression == 7 ? " (JPEG)" : "");
    if (predictor < 1 || predictor > 3 || (predictor == 3 && format != 3))
        return fail(error, "predictor %" PRId64 " for sample format %" PRId64 " is not supported", predictor, format);
    if (fill != 1)
        return fail(error, "fill order %" PRId64 " is not supported, only 1", fill);
    /* The predictor belongs to LZW and Deflate; other compressions ignore the tag. */
    if (compression == 1 || compression == 32773)
        predictor = 1;
    layout->format = (int32_t)format;
    layout->bytes = (int32_t)bits / 8;
    layout->compression = (int32_t)compression;
    layout->predictor = (int32_t)predictor;
    image->bits = (int32_t)bits;
    image->is_float = format == 3;
    return 0;
}

static int32_t layout_read(const struct file *file, int64_t directory, const struct tiff_image *image, struct layout *layout,
                           char *error)
{
    int64_t width = image->width, height, planar;
    struct field tile;
    layout->tiled = field_find(file, directory, TAG_TILE_WIDTH, &tile) != 0;
    if (field_number(file, directory, TAG_PLANAR, 1, &planar, error) < 0 ||
        (layout->tiled && field_number(file, directory, TAG_TILE_WIDTH, 0, &width, error) < 0) ||
        field_number(file, directory, layout->tiled ? TAG_TILE_HEIGHT : TAG_ROWS_PER_STRIP, image->height, &height, error) < 0)
        return -1;
    if (planar != 1 && planar != 2)
        return fail(error, "planar configuration %" PRId64 ", expected 1 or 2", planar);
    if (!layout->tiled && height > image->height)
        height = image->height;
    layout->planar = planar == 2;
    layout->unit_bands = layout->planar ? 1 : image->bands;
    if (width < 1 || height < 1 || width > SIDE_MAX || height > SIDE_MAX || width * height * layout->unit_bands > SAMPLES_MAX)
        return fail(error, "%s of %" PRId64 " x %" PRId64 " cells are out of bounds", layout->tiled ? "tiles" : "strips", width,
                    height);
    layout->unit_width = (int32_t)width;
    layout->unit_height = (int32_t)height;
    layout->across = (image->width + layout->unit_width - 1) / layout->unit_width;
    layout->down = (image->height + layout->unit_height - 1) / layout->unit_height;

    int64_t units = (int64_t)layout->across * layout->down * (layout->planar ? image->bands : 1);
    if (field_find(file, directory, layout->tiled ? TAG_TILE_OFFSETS : TAG_STRIP_OFFSETS, &layout->offsets) != 1 ||
        field_find(file, directory, layout->tiled ? TAG_TILE_BYTES : TAG_STRIP_BYTES, &layout->sizes) != 1)
        return fail(error, "the places of the %s are missing or damaged", layout->tiled ? "tiles" : "strips");
    if (layout->offsets.count < units || layout->sizes.count < units)
        return fail(error, "the file lists %" PRIu32 " %s, expected %" PRId64, layout->offsets.count,
                    layout->tiled ? "tiles" : "strips", units);
    return 0;
}

/* Floats and doubles keep their width, everything is turned to little-endian. */
static int32_t ground_read(const struct file *file, int64_t directory, struct tiff_image *image, char *error)
{
    for (int32_t t = 0; t < TIFF_KEPT_MAX; t++) {
        struct field field;
        int32_t found = field_find(file, directory, ground_tags[t], &field);
        if (found < 0)
            return fail(error, "TIFF tag %d is damaged", (int)ground_tags[t]);
        if (found == 0)
            continue;
        struct tiff_tag *tag = &image->keep[image->kept];
        tag->tag = ground_tags[t];
        tag->type = field.type;
        tag->count = field.count;
        tag->size = field.count * (uint32_t)field.width;
        tag->bytes = malloc(tag->size);
        if (tag->bytes == NULL)
            return fail(error, "no memory for TIFF tag %d", (int)tag->tag);
        for (uint32_t i = 0; i < tag->size; i++) {
            uint32_t in_value = i % (uint32_t)field.width;
            uint32_t from = file->big_endian ? i - in_value + (uint32_t)field.width - 1 - in_value : i;
            tag->bytes[i] = file->bytes[field.at + from];
        }
        image->kept++;
    }
    return 0;
}

static int32_t nodata_read(const struct file *file, int64_t directory, struct tiff_image *image, char *error)
{
    struct field field;
    char text[64];
    int32_t found = field_find(file, directory, TAG_NODATA, &field);
    if (found < 0 || (found == 1 && field.width != 1))
        return fail(error, "TIFF tag %d (GDAL_NODATA) is damaged", TAG_NODATA);
    if (found == 0)
        return 0;
    uint32_t length = field.count < sizeof text - 1 ? field.count : (uint32_t)sizeof text - 1;
    memcpy(text, file->bytes + field.at, length);
    text[length] = 0;
    char *end = text;
    double value = strtod(text, &end);
    if (end == text)
        return fail(error, "TIFF tag %d (GDAL_NODATA) is \"%s\", expected a number", TAG_NODATA, text);
    /* A NaN sample is missing anyway. */
    image->has_nodata = value == value;
    image->nodata = value;
    return 0;
}

/* ---- strips and tiles ---- */

static void predictor_differences(const struct file *file, const struct layout *layout, uint8_t *row)
{
    int32_t bytes = layout->bytes, stride = layout->unit_bands;
    int64_t samples = (int64_t)layout->unit_width * stride;
    for (int64_t i = stride; i < samples; i++) {
        uint64_t sum = number(row + i * bytes, bytes, file->big_endian) +
                       number(row + (i - stride) * bytes, bytes, file->big_endian);
        for (int32_t k = 0; k < bytes; k++)
            row[i * bytes + (file->big_endian ? bytes - 1 - k : k)] = (uint8_t)(sum >> (8 * k));
    }
}

/* Predictor 3 stores all first bytes of a row's floats, then all second ones, each minus its left neighbour. */
static void predictor_planes(const struct file *file, const struct layout *layout, uint8_t *row, uint8_t *scratch)
{
    int32_t bytes = layout->bytes, stride = layout->unit_bands;
    int64_t samples = (int64_t)layout->unit_width * stride;
    for (int64_t i = stride; i < samples * bytes; i++)
        row[i] = (uint8_t)(row[i] + row[i - stride]);
    memcpy(scratch, row, (size_t)(samples * bytes));
    for (int64_t i = 0; i < samples; i++)
        for (int32_t k = 0; k < bytes; k++)
            row[i * bytes + (file->big_endian ? k : bytes - 1 - k)] = scratch[(int64_t)k * samples + i];
}

static double sample_value(const struct file *file, const struct layout *layout, const uint8_t *p)
{
    uint64_t raw = number(p, layout->bytes, file->big_endian);
    if (layout->format == 1)
        return (double)raw;
    if (layout->format == 2)
        return layout->bytes == 1 ? (double)(int8_t)raw : layout->bytes == 2 ? (double)(int16_t)raw : (double)(int32_t)raw;
    if (layout->bytes == 4) {
        uint32_t word = (uint32_t)raw;
        float value;
        memcpy(&value, &word, 4);
        return (double)value;
    }
    double value;
    memcpy(&value, &raw, 8);
    return value;
}

static void unit_place(const struct file *file, const struct layout *layout, struct tiff_image *image, const uint8_t *unit,
                       int32_t first_band, int32_t top, int32_t left, int32_t rows)
{
    int32_t columns = image->width - left < layout->unit_width ? image->width - left : layout->unit_width;
    int64_t plane = (int64_t)image->width * image->height;
    for (int32_t row = 0; row < rows && top + row < image->height; row++) {
        for (int32_t column = 0; column < columns; column++) {
            const uint8_t *cell = unit + ((int64_t)row * layout->unit_width + column) * layout->unit_bands * layout->bytes;
            double *target = image->samples + (int64_t)(top + row) * image->width + left + column;
            for (int32_t band = 0; band < layout->unit_bands; band++)
                target[(first_band + band) * plane] = sample_value(file, layout, cell + band * layout->bytes);
        }
    }
}

static int32_t unit_decode(const struct file *file, const struct layout *layout, uint32_t index, uint8_t *unit, int64_t wanted,
                           char *error)
{
    const char *noun = layout->tiled ? "tile" : "strip";
    int64_t at = field_value(file, &layout->offsets, index);
    int64_t size = field_value(file, &layout->sizes, index);
    if (at < 0 || size < 0 || size > file->size || at > file->size - size)
        return fail(error, "%s %" PRIu32 " (%" PRId64 " bytes at %" PRId64 ") is outside of the file", noun, index, size, at);
    const uint8_t *in = file->bytes + at;
    int64_t made;
    switch (layout->compression) {
    case 1: made = codec_copy(in, size, unit, wanted); break;
    case 5: made = codec_lzw(in, size, unit, wanted); break;
    case 32773: made = codec_packbits(in, size, unit, wanted); break;
    default: made = codec_zlib(in, size, unit, wanted); break;
    }
    if (made < 0)
        return fail(error, "%s %" PRIu32 " is damaged (compression %d)", noun, index, (int)layout->compression);
    if (made < wanted)
        return fail(error, "%s %" PRIu32 " holds %" PRId64 " bytes, expected %" PRId64, noun, index, made, wanted);
    return 0;
}

static int32_t units_read(const struct file *file, const struct layout *layout, struct tiff_image *image, char *error)
{
    int64_t row_bytes = (int64_t)layout->unit_width * layout->unit_bands * layout->bytes;
    int32_t per_plane = layout->across * layout->down, result = 0;
    int32_t units = per_plane * (layout->planar ? image->bands : 1);
    uint8_t *unit = malloc((size_t)(row_bytes * layout->unit_height));
    uint8_t *scratch = malloc((size_t)row_bytes);
    if (unit == NULL || scratch == NULL)
        result = fail(error, "no memory for %" PRId64 " bytes of one strip or tile", row_bytes * layout->unit_height);
    for (int32_t index = 0; index < units && result == 0; index++) {
        int32_t place = index % per_plane;
        int32_t top = place / layout->across * layout->unit_height, left = place % layout->across * layout->unit_width;
        int32_t rows = layout->unit_height;
        if (!layout->tiled && image->height - top < rows)
            rows = image->height - top;
        result = unit_decode(file, layout, (uint32_t)index, unit, row_bytes * rows, error);
        if (result != 0)
            break;
        for (int32_t row = 0; row < rows && layout->predictor > 1; row++) {
            if (layout->predictor == 2)
                predictor_differences(file, layout, unit + row * row_bytes);
            else
                predictor_planes(file, layout, unit + row * row_bytes, scratch);
        }
        unit_place(file, layout, image, unit, layout->planar ? index / per_plane : 0, top, left, rows);
    }
    free(unit);
    free(scratch);
    return result;
}

int32_t tiff_read(const char *path, struct tiff_image *image, char error[TIFF_ERROR_SIZE])
{
    struct file file = {NULL, 0, 0};
    struct layout layout;
    int64_t directory;
    int32_t result = -1;
    memset(image, 0, sizeof *image);
    memset(&layout, 0, sizeof layout);
    if (file_load(path, &file, error) == 0 && (directory = directory_start(path, &file, error)) > 0 &&
        size_read(&file, directory, image, error) == 0 && sample_read(&file, directory, image, &layout, error) == 0 &&
        layout_read(&file, directory, image, &layout, error) == 0 && ground_read(&file, directory, image, error) == 0 &&
        nodata_read(&file, directory, image, error) == 0) {
        image->samples = malloc((size_t)image->width * (size_t)image->height * (size_t)image->bands * sizeof(double));
        if (image->samples == NULL)
            result = fail(error, "%s: no memory for %d x %d x %d samples", path, (int)image->width, (int)image->height,
                          (int)image->bands);
        else
            result = units_read(&file, &layout, image, error);
    }
    free(file.bytes);
    return result;
}

void tiff_free(struct tiff_image *image)
{
    for (int32_t i = 0; i < image->kept; i++)
        free(image->keep[i].bytes);
    free(image->samples);
    memset(image, 0, sizeof *image);
}

/* ---- writing ---- */

enum { ROWS_PER_STRIP = 16, WRITTEN_FIELDS_MAX = 12 + TIFF_KEPT_MAX };

struct writer {
    FILE *stream;
    uint32_t entries;
    uint32_t spill_at;  /* where the values of the next long field go */
    uint8_t head[2 + 12 * WRITTEN_FIELDS_MAX + 4];
    struct { const uint8_t *bytes; uint32_t size; } spills[WRITTEN_FIELDS_MAX];
    uint32_t spills_count;
};

static void put(uint8_t *p, uint32_t value, int32_t width)
{
    for (int32_t i = 0; i < width; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static void entry_add(struct writer *w, uint32_t tag, uint32_t type, uint32_t count, const uint8_t *bytes, uint32_t size)
{
    uint8_t *entry = w->head + 2 + 12 * w->entries++;
    put(entry, tag, 2);
    put(entry + 2, type, 2);
    put(entry + 4, count, 4);
    put(entry + 8, 0, 4);
    if (size <= 4) {
        memcpy(entry + 8, bytes, size);
        return;
    }
    put(entry + 8, w->spill_at, 4);
    w->spills[w->spills_count].bytes = bytes;
    w->spills[w->spills_count].size = size;
    w->spills_count++;
    w->spill_at += size + (size & 1);
}

static void entry_number(struct writer *w, uint32_t tag, uint32_t type, uint32_t value)
{
    uint8_t bytes[4];
    put(bytes, value, 4);
    entry_add(w, tag, type, 1, bytes, type == 3 ? 2 : 4);
}

static int32_t samples_write(FILE *stream, const float *plane, int32_t width, int32_t height)
{
    uint8_t *row_bytes = malloc((size_t)width * 4);
    int32_t ok = row_bytes != NULL;
    for (int32_t row = 0; row < height && ok; row++) {
        for (int32_t column = 0; column < width; column++) {
            float value = plane[(int64_t)row * width + column];
            uint32_t word;
            memcpy(&word, &value, 4);
            /* One NaN for all machines: its sign and payload aren't defined by arithmetic. */
            put(row_bytes + 4 * (int64_t)column, value == value ? word : 0x7fc00000u, 4);
        }
        ok = fwrite(row_bytes, 4, (size_t)width, stream) == (size_t)width;
    }
    free(row_bytes);
    return ok;
}

static int32_t spills_write(const struct writer *w)
{
    for (uint32_t i = 0; i < w->spills_count; i++) {
        if (fwrite(w->spills[i].bytes, 1, w->spills[i].size, w->stream) != w->spills[i].size)
            return 0;
        if ((w->spills[i].size & 1) != 0 && fputc(0, w->stream) == EOF)
            return 0;
    }
    return 1;
}

int32_t tiff_write(const char *path, const struct tiff_image *like, const float *plane, char error[TIFF_ERROR_SIZE])
{
    uint32_t width = (uint32_t)like->width, height = (uint32_t)like->height;
    uint32_t strips = (height + ROWS_PER_STRIP - 1) / ROWS_PER_STRIP, fields = 12 + (uint32_t)like->kept;
    uint32_t values_at = 8 + 2 + 12 * fields + 4, data_at;
    uint8_t start[8] = {'I', 'I', 42, 0, 8, 0, 0, 0};
    struct writer w;
    uint8_t *tables = malloc((size_t)strips * 8);
    if (tables == NULL)
        return fail(error, "%s: no memory for %" PRIu32 " strips", path, strips);
    memset(&w, 0, sizeof w);
    w.spill_at = values_at;
    data_at = values_at + (strips > 1 ? strips * 8 : 0);
    for (int32_t i = 0; i < like->kept; i++)
        data_at += like->keep[i].size > 4 ? like->keep[i].size + (like->keep[i].size & 1) : 0;
    for (uint32_t i = 0; i < strips; i++) {
        uint32_t rows = height - i * ROWS_PER_STRIP < ROWS_PER_STRIP ? height - i * ROWS_PER_STRIP : ROWS_PER_STRIP;
        put(tables + 4 * (size_t)i, data_at + i * ROWS_PER_STRIP * width * 4, 4);
        put(tables + 4 * ((size_t)strips + i), rows * width * 4, 4);
    }
    put(w.head, fields, 2);
    entry_number(&w, TAG_WIDTH, 4, width);
    entry_number(&w, TAG_HEIGHT, 4, height);
    entry_number(&w, TAG_BITS, 3, 32);
    entry_number(&w, TAG_COMPRESSION, 3, 1);
    entry_number(&w, 262, 3, 1);
    entry_add(&w, TAG_STRIP_OFFSETS, 4, strips, tables, strips * 4);
    entry_number(&w, TAG_SAMPLES_PER_PIXEL, 3, 1);
    entry_number(&w, TAG_ROWS_PER_STRIP, 4, ROWS_PER_STRIP);
    entry_add(&w, TAG_STRIP_BYTES, 4, strips, tables + 4 * (size_t)strips, strips * 4);
    entry_number(&w, TAG_PLANAR, 3, 1);
    entry_number(&w, TAG_SAMPLE_FORMAT, 3, 3);
    for (int32_t i = 0; i < like->kept; i++)
        entry_add(&w, like->keep[i].tag, like->keep[i].type, like->keep[i].count, like->keep[i].bytes, like->keep[i].size);
    entry_add(&w, TAG_NODATA, 2, 4, (const uint8_t *)"nan", 4);

    w.stream = fopen(path, "wb");
    int32_t ok = w.stream != NULL && fwrite(start, 1, 8, w.stream) == 8 &&
                 fwrite(w.head, 1, values_at - 8, w.stream) == values_at - 8 && spills_write(&w) &&
                 samples_write(w.stream, plane, like->width, like->height);
    int32_t cause = errno;
    if (w.stream != NULL && fclose(w.stream) != 0)
        ok = 0;
    free(tables);
    return ok ? 0 : fail(error, "write %s: %s", path, strerror(cause));
}
