/* Needs: calls a function that no agent has. */
__attribute__((import_module("env"), import_name("open_the_pod_bay_doors"))) int open_the_pod_bay_doors(int);

int main(int argc, char **argv)
{
    (void)argv;
    return open_the_pod_bay_doors(argc);
}
