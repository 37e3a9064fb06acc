/* Forever: the emptiest of all loops. No MPI, no call, nothing written. */
int main(void)
{
    for (;;)
        ;
}
