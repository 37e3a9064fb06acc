"""Spark, as it is released, with the store as its file system: tables, overwriting and appending, shuffles, checkpoints, a stream of files into files.

    spark.py JAR FOLDER       on geds:// as a node of the store in FOLDER, and on the same machine's files beside it; prints how long each took the second time

Everything is held against what was to come out; a difference ends it with a traceback.
"""

import hashlib
import sys
import time

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession, functions as f

ROWS = 2_000_000
KEYS = 97
# Of each key: how many rows, the sum of their numbers, and the greatest of their texts, which Spark makes by itself.
EXPECTED = {(key, len(ids), sum(ids), max(hashlib.sha256(str(n).encode()).hexdigest() for n in ids)) for key in range(KEYS) for ids in [range(key, ROWS, KEYS)]}


def session(jar, folder):
    """Two threads of this process, which is a node of the store as soon as a path begins with `geds://`."""
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.jars": jar,
        # Spark has asked what file systems there are before it has the jar.
        "spark.hadoop.fs.geds.impl": "cloudskin.geds.hadoop.GedsFileSystem",
        "spark.hadoop.fs.geds.folder": folder + "/store",
        "spark.hadoop.fs.geds.site": "spark",
        "spark.hadoop.fs.geds.limit": str(2 << 30),
    }
    builder = SparkSession.builder.master("local[2]").appName("geds")
    for name, value in settings.items():
        builder = builder.config(name, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


def table(spark, base):
    rows = spark.range(ROWS).withColumn("key", f.col("id") % KEYS).withColumn("text", f.sha2(f.col("id").cast("string"), 256))
    rows.write.parquet(base + "/table")
    sums = spark.read.parquet(base + "/table").groupBy("key").agg(f.count("*"), f.sum("id"), f.max("text")).collect()
    assert {tuple(row) for row in sums} == EXPECTED


def modes(spark, base):
    few = spark.range(1000).withColumn("twice", f.col("id") * 2)
    few.write.csv(base + "/csv", header=True)
    few.write.mode("append").csv(base + "/csv", header=True)
    assert spark.read.csv(base + "/csv", header=True, inferSchema=True).agg(f.sum("twice")).first()[0] == 2 * 2 * sum(range(1000))
    few.write.json(base + "/json")
    few.limit(10).write.mode("overwrite").json(base + "/json")
    assert spark.read.json(base + "/json").count() == 10
    try:
        few.write.json(base + "/json")
        raise AssertionError("what is there was written over")
    except AnalysisException as e:
        assert "already exists" in str(e), e
    few.withColumn("part", f.col("id") % 3).write.partitionBy("part").parquet(base + "/parts")
    assert spark.read.parquet(base + "/parts").where("part = 1").count() == 333


def words(spark, base):
    """The older interface, over Hadoop's own formats; and a checkpoint."""
    count = spark.sparkContext.parallelize(["a b a", "b c"] * 1000).flatMap(str.split).map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b)
    count.map(lambda pair: f"{pair[0]} {pair[1]}").saveAsTextFile(base + "/words")
    assert sorted(spark.sparkContext.textFile(base + "/words").collect()) == ["a 2000", "b 2000", "c 1000"]
    spark.sparkContext.setCheckpointDir(base + "/checkpoints")
    assert spark.range(1000).checkpoint().count() == 1000


def stream(spark, base):
    """Files that come are taken once, over two runs of a query that goes on from its checkpoint."""
    for run in range(2):
        spark.range(1000 * run, 1000 * (run + 1)).write.mode("append").json(base + "/in")
        writer = spark.readStream.schema("id long").json(base + "/in").writeStream.format("parquet")
        query = writer.option("path", base + "/out").option("checkpointLocation", base + "/progress").trigger(availableNow=True).start()
        assert query.awaitTermination(120)
        assert sorted(row.id for row in spark.read.parquet(base + "/out").collect()) == list(range(1000 * (run + 1)))


def main(jar, folder):
    spark = session(jar, folder)
    for step in (table, modes, words, stream):
        # In turn, and twice: whatever is the first to run has Spark compile what it does.
        for turn in range(2):
            took = []
            for base in (f"geds://spark/{turn}", f"file://{folder}/files/{turn}"):
                start = time.monotonic()
                step(spark, base)
                took.append(time.monotonic() - start)
        print(f"{step.__name__}: {took[0]:.1f} s, on files {took[1]:.1f} s", flush=True)
    spark.stop()


main(*sys.argv[1:])
