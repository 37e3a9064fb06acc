# For CMake: `cmake -DCMAKE_TOOLCHAIN_FILE=.../guests/cloudskin.cmake SOURCES`. What it builds are cells, which also start on the spot, as `./prog`.
#
# The program `cloudskin` is found by PATH, or named: `-DCLOUDSKIN=.../cloudskin`. What is meant to be a shared library becomes a static one. Libraries and headers
# of this machine are not looked for, since they are no cell's: name those that were built for cells (CMAKE_PREFIX_PATH and CMAKE_FIND_ROOT_PATH).

if(NOT CLOUDSKIN)
  find_program(CLOUDSKIN cloudskin REQUIRED)
endif()
# CMake reads this file again for each of its probes.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CLOUDSKIN)

# A system without shared libraries; and a Unix, as far as projects ask.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR wasm32)
set(UNIX 1)

set(CMAKE_C_COMPILER ${CLOUDSKIN} cc)
set(CMAKE_CXX_COMPILER ${CLOUDSKIN} c++)
set(CMAKE_AR ${CLOUDSKIN} CACHE FILEPATH "makes archives, as `cloudskin ar`")
set(CMAKE_RANLIB ${CLOUDSKIN} CACHE FILEPATH "makes their index, as `cloudskin ranlib`")
foreach(language C CXX)
  set(CMAKE_${language}_ARCHIVE_CREATE "<CMAKE_AR> ar qc <TARGET> <LINK_FLAGS> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_APPEND "<CMAKE_AR> ar q <TARGET> <LINK_FLAGS> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_FINISH "<CMAKE_RANLIB> ranlib <TARGET>")
endforeach()

# What CMake builds to ask what the system is like is run as it is.
set(CMAKE_CROSSCOMPILING_EMULATOR ${CLOUDSKIN} exec)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
